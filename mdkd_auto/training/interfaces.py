"""The interfaces of tasks and objectives to the training loop."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.networks.model import Encoder

TURNED_DOWN = "turned_down"  # logged with the losses: the factor on an epoch's distillation terms

Terms = dict[str, torch.Tensor]
Output = Any  # a head's output: logits (B, K, ...), or a networks.detector.DetectorOutput


class Score(NamedTuple):
    """Numerator and denominator of a ratio, one entry per class, so that batches are summed before dividing."""

    numerator: torch.Tensor
    denominator: torch.Tensor


class TrainingTask(Protocol):
    """A task's parts for one configuration: encoder, head, supervised loss and a quick validation score."""

    def outputs(self, dataset: str) -> int:
        """Number of channels or classes the head predicts for ``dataset``."""

    def source_and_target_outputs(self, source: str, target: str) -> tuple[int, dict[str, list[int]]]:
        """Outputs of a source teacher for both data sets, and the indices that belong to each."""

    def joint_encoder(self, teachers: Sequence[Encoder], weights: Sequence[float] | None) -> Encoder:
        """Fuse frozen teachers, the target's first, each with its weight."""

    def pairs(self, student: Encoder, teacher: Encoder) -> list[tuple[int, int]]:
        """Matching levels of student and joint teacher, the deepest last."""

    @property
    def distils_output(self) -> bool:
        """Whether the student also learns from the joint teacher's head, not only from its maps."""

    def head_projection(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        """Projection of the student's head embeddings to the teacher's width; trained with the student."""

    def distilled(
        self,
        output: Output,
        taught: Output,
        maps: list[torch.Tensor],
        teacher_maps: list[torch.Tensor],
        projection: nn.Module,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """If :attr:`distils_output`, the losses beside eq. (11) to (13): name -> weight and loss.

        ``maps`` belong to the matching levels, unprojected. ``projection`` comes from :meth:`head_projection`.
        """

    def probabilities(self, output: Output) -> torch.Tensor:
        """Probabilities (B, ...) of an output."""

    def encoder(self, architecture: str | None = None, width: int | None = None) -> Encoder:
        """Build an encoder with ``.channels`` and ``.strides``; it returns a list of maps, the bottleneck last.

        Uses ``architecture`` and ``width`` (None: the default width) if given, else the task's own.
        """

    def head(self, outputs: int, encoder: Encoder | None = None) -> nn.Module:
        """Build a head on the maps of ``encoder``, or on those of :meth:`encoder`."""

    def loss(self, output: Output, batch: Batch, dataset: str) -> torch.Tensor:
        """The supervised loss of ``dataset``: eq. (1) or (10) for segmentation."""

    def score(self, output: Output, batch: Batch, dataset: str) -> Score:
        """Validation score of a batch."""


class Objective(Protocol):
    """A stage of the method as seen by the loop: its batches, its losses, and its trained parameters."""

    batch_fractions: dict[str, float]  # data set -> its fraction of a batch

    @property
    def model(self) -> nn.Module:
        """The module saved as the stage's result."""

    def trained(self) -> nn.Module:
        """The module whose parameters are updated (including helpers such as a discriminator)."""

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        """Yield named terms, including ``total``; several yields are back-propagated in turn and updated together.

        ``progress`` is the fraction of updates done.
        """

    def schedules(self, progress: float) -> dict[str, float]:
        """Scheduled values by name, for the run's figure; {} if nothing is scheduled."""

    def on_epoch_end(self, score: float) -> None:
        """Receives the validation score after every epoch; after a resume, first all earlier scores."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        """Task loss and score on a validation batch."""

    def validated_on(self) -> Iterable[str]:
        """Data sets used for validation."""

    def to(self, device: torch.device) -> None:
        """Move every network."""


def outputs_of(output: Output, places: list[int]) -> Output:
    """Select outputs (B, K, ...), or a detector's classes, by index; a view if the indices are consecutive."""
    if not isinstance(output, torch.Tensor):
        return output.of(places)
    if places == list(range(places[0], places[0] + len(places))):
        return output[:, places[0] : places[0] + len(places)]
    return output[:, places]


def some_images(output: Output, start: int, stop: int) -> Output:
    """The output for images start..stop-1 of the batch."""
    return output[start:stop] if isinstance(output, torch.Tensor) else output.images(start, stop)
