"""What the detection heads give: boxes and their scores, with the losses that train them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


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

    def learns_from(self, teacher: "DetectorOutput", temperature: float) -> Taught:
        """The losses of eq. (22) and (23) against a frozen teacher of the same family, on the same images."""
