"""What a task brings to training, and what every training objective offers the loop."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.networks.model import Encoder

TURNED_DOWN = "turned_down"  # logged among the losses: the factor of an epoch's distillation

Terms = dict[str, torch.Tensor]
Output = Any  # of a head: logits (B, K, ...), or of a detector networks.detector.DetectorOutput


class Score(NamedTuple):
    """A ratio in parts, so that batches can be summed before dividing: one entry a class."""

    numerator: torch.Tensor
    denominator: torch.Tensor


class TrainingTask(Protocol):
    """A task's parts for one configuration: encoder, head, supervised loss and a quick validation score."""

    def outputs(self, dataset: str) -> int:
        """Channels, or classes, that the head gives for ``dataset``."""

    def source_and_target_outputs(self, source: str, target: str) -> tuple[int, dict[str, list[int]]]:
        """Outputs of a source teacher, which serves both, and which of them are each data set's."""

    def joint_encoder(self, teachers: Sequence[Encoder], weights: Sequence[float] | None) -> Encoder:
        """The fusion of frozen teachers, the target's first, each with its weight."""

    def pairs(self, student: Encoder, teacher: Encoder) -> list[tuple[int, int]]:
        """Levels of the student and of the joint teacher that belong together, the deepest last."""

    @property
    def distils_output(self) -> bool:
        """Whether the student learns from the joint teacher's head too, and not from its maps alone."""

    def head_projection(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        """What brings that of the student's head which is compared to the width of the teacher's; trained with it."""

    def distilled(
        self,
        output: Output,
        taught: Output,
        maps: list[torch.Tensor],
        teacher_maps: list[torch.Tensor],
        projection: nn.Module,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Where :attr:`distils_output`, what is learned beside eq. (11) to (13): name -> its weight and loss.

        ``maps``: of the levels that belong together, as they are. ``projection``: :meth:`head_projection`'s.
        """

    def probabilities(self, output: Output) -> torch.Tensor:
        """Of an output: (B, ...), of whatever it says is likely or not."""

    def encoder(self, architecture: str | None = None, width: int | None = None) -> Encoder:
        """A new encoder with ``.channels`` and ``.strides``; returns a list of maps, the bottleneck last.

        With ``architecture`` of that kind and ``width`` (None: as the plan or the kind has it), else of the task's own.
        """

    def head(self, outputs: int, encoder: Encoder | None = None) -> nn.Module:
        """A new head on the maps of ``encoder``, or on those of :meth:`encoder`."""

    def loss(self, output: Output, batch: Batch, dataset: str) -> torch.Tensor:
        """The supervised loss of ``dataset``: eq. (1) or (10) for segmentation."""

    def score(self, output: Output, batch: Batch, dataset: str) -> Score:
        """Validation score of a batch."""


class Objective(Protocol):
    """A stage of the method for the loop: which batches it needs, its losses, and what it trains."""

    batch_fractions: dict[str, float]  # data set -> its fraction of a batch

    @property
    def model(self) -> nn.Module:
        """What is saved as the stage's result."""

    def trained(self) -> nn.Module:
        """The module whose parameters are updated (with helpers such as a discriminator)."""

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        """Named terms, ``total`` among them; several parts are back-propagated in turn and updated together.

        ``progress`` is the fraction of updates done.
        """

    def schedules(self, progress: float) -> dict[str, float]:
        """What depends on the fraction of updates done, by name, for the picture of the run; {} where nothing does."""

    def on_epoch_end(self, score: float) -> None:
        """Told the validation score at the end of every epoch, and all earlier ones when training goes on."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        """Task loss and score on a validation batch."""

    def validated_on(self) -> Iterable[str]:
        """Data sets on which the objective is judged."""

    def to(self, device: torch.device) -> None:
        """Move every network."""


def outputs_of(output: Output, places: list[int]) -> Output:
    """The outputs (B, K, ...), or a detector's classes, at these places; a view where they are consecutive."""
    if not isinstance(output, torch.Tensor):
        return output.of(places)
    if places == list(range(places[0], places[0] + len(places))):
        return output[:, places[0] : places[0] + len(places)]
    return output[:, places]


def some_images(output: Output, start: int, stop: int) -> Output:
    """The output for images start..stop-1 of the batch."""
    return output[start:stop] if isinstance(output, torch.Tensor) else output.images(start, stop)
