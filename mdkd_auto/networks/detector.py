"""What the detection heads give: boxes and their scores, with the losses that train them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn import functional as F

Projection = Callable[[Tensor], Tensor]


def as_it_is(embeddings: Tensor) -> Tensor:
    """The projection where widths are the same."""
    return embeddings


def embedding_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Eq. (23): the mean squared difference of embeddings (..., E), each at a root mean square of 1; 0 to 4.

    A joint teacher's embeddings have no scale of their own: as they are, their squares drown the detector's own loss.
    """
    width = ours.shape[-1] ** 0.5
    return F.mse_loss(width * F.normalize(ours, dim=-1), width * F.normalize(theirs, dim=-1))


class Objects(NamedTuple):
    """The true objects of one image."""

    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    classes: Tensor  # (N,) int64, 0 to K - 1


class Detected(NamedTuple):
    """What a detector found in one image, the highest score first."""

    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    classes: Tensor  # (N,) int64, 0 to K - 1
    scores: Tensor  # (N,) 0 to 1


class Taught(NamedTuple):
    """What a student's head is to learn of a joint teacher's, row by row the same regions or queries."""

    logits: Tensor  # eq. (22), the mean over regions times the squared temperature
    embeddings: Tensor  # eq. (23)


class Described(NamedTuple):
    """Places of one image, each with the numbers by which the head names its class."""

    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    embeddings: Tensor  # (N, E) float32


class DetectorOutput(Protocol):
    """A head's answer to a batch, before its boxes are picked.

    Two families have one: Faster R-CNN (networks/faster_rcnn.py) and RF-DETR (networks/rf_detr.py).
    """

    def __len__(self) -> int:
        """Images of the batch."""

    def images(self, start: int, stop: int) -> "DetectorOutput":
        """The part of these images."""

    def of(self, classes: list[int]) -> "DetectorOutput":
        """As a detector of these classes alone, which it numbers 0 to len(classes) - 1."""

    def losses(self, objects: Sequence[Objects]) -> dict[str, Tensor]:
        """The supervised losses by name, to be added; an image without objects has some too. Sampling draws from
        torch's global generator."""

    def likelihoods(self) -> Tensor:
        """(B, N) of N places or queries, whatever they are: how likely each holds an object."""

    def detected(self) -> list[Detected]:
        """The boxes of each image."""

    def described(self, boxes: Sequence[Tensor]) -> list[Described]:
        """The places that the head looks at in each image, the likeliest first.

        ``boxes``: one (N, 4) an image. A head that can look anywhere looks there first; queries do not.
        """

    def learns_from(self, teacher: "DetectorOutput", temperature: float, project: Projection = as_it_is) -> Taught:
        """The losses of eq. (22) and (23) against a frozen teacher of the same family, on the same images.

        ``project``: from our embeddings (..., E) to the teacher's width.
        """
