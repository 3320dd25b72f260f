"""The multi-data-set baseline: one encoder trained on every data set, with one head per data set."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.training.interfaces import Score, Terms, TrainingTask


class MultiHeadObjective:
    """The multi-data-set baseline: batches of every data set in turn, losses accumulated before each update."""

    def __init__(self, model: MultiHeadModel, task: TrainingTask, datasets: tuple[str, ...]) -> None:
        self.model, self.task, self.datasets = model, task, datasets
        self.batch_fractions = dict.fromkeys(datasets, 1.0)

    def trained(self) -> nn.Module:
        return self.model

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        del progress
        for dataset, batch in batches.items():
            loss = self.task.loss(self.model.of(dataset)(batch.images), batch, dataset)
            yield {"total": loss / len(batches), dataset: loss}

    def schedules(self, progress: float) -> dict[str, float]:
        del progress
        return {}

    def on_epoch_end(self, score: float) -> None:
        """Nothing depends on it."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        output = self.model.of(dataset)(batch.images)
        return self.task.loss(output, batch, dataset), self.task.score(output, batch, dataset)

    def validated_on(self) -> Iterable[str]:
        return self.datasets

    def to(self, device: torch.device) -> None:
        self.model.to(device)
