"""The output of detection heads: boxes, scores, and the losses that train them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn import functional as F

Projection = Callable[[Tensor], Tensor]


def as_it_is(embeddings: Tensor) -> Tensor:
    """The identity projection, for equal widths."""
    return embeddings


def embedding_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Eq. (23): the mean squared difference of embeddings (..., E), each scaled to a root mean square of 1; 0 to 4.

    A joint teacher's embeddings have arbitrary scale: unscaled, their squares outweigh the detector's own loss.
    """
    width = ours.shape[-1] ** 0.5
    return F.mse_loss(width * F.normalize(ours, dim=-1), width * F.normalize(theirs, dim=-1))


class Objects(NamedTuple):
    """The ground-truth objects of one image."""

    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    classes: Tensor  # (N,) int64, 0 to K - 1


class Detected(NamedTuple):
    """The detections in one image, highest score first."""

    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    classes: Tensor  # (N,) int64, 0 to K - 1
    scores: Tensor  # (N,) 0 to 1


class Taught(NamedTuple):
    """What a student's head learns from a joint teacher's, row by row for the same regions or queries."""

    logits: Tensor  # eq. (22), averaged over regions, times the squared temperature
    embeddings: Tensor  # eq. (23)


class Described(NamedTuple):
    """Regions of one image with the embeddings from which the head predicts their classes."""

    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    embeddings: Tensor  # (N, E) float32


class DetectorOutput(Protocol):
    """A head's output for a batch, before boxes are selected.

    Two families implement it: Faster R-CNN (networks/faster_rcnn.py) and RF-DETR (networks/rf_detr.py).
    """

    def __len__(self) -> int:
        """Number of images in the batch."""

    def images(self, start: int, stop: int) -> "DetectorOutput":
        """The output for images start..stop-1."""

    def of(self, classes: list[int]) -> "DetectorOutput":
        """Restrict the output to these classes, renumbered 0 to len(classes) - 1."""

    def losses(self, objects: Sequence[Objects]) -> dict[str, Tensor]:
        """The supervised losses by name, to be summed; an image without objects has losses too.

        Sampling draws from torch's global generator.
        """

    def likelihoods(self) -> Tensor:
        """(B, N) for N regions or queries: the probability that each holds an object."""

    def detected(self) -> list[Detected]:
        """The detections of each image."""

    def described(self, boxes: Sequence[Tensor]) -> list[Described]:
        """The regions the head evaluates in each image, likeliest first.

        ``boxes``: one (N, 4) per image. A head that can evaluate any region puts these first; queries ignore them.
        """

    def distillation_losses(
        self, teacher: "DetectorOutput", temperature: float, project: Projection = as_it_is
    ) -> Taught:
        """The losses of eq. (22) and (23) against a frozen teacher of the same family, on the same images.

        ``project`` maps our embeddings (..., E) to the teacher's width.
        """
