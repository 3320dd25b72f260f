"""The multi-data-set baseline: one encoder trained on every data set, with one head per data set."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.settings import COMMON
from mdkd_auto.stages.stage import Ingredients, Stage
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


def build_model(task: TrainingTask, job: Job) -> MultiHeadModel:
    encoder = task.encoder()
    return MultiHeadModel(encoder, {name: task.head(task.outputs(name), encoder) for name in job.datasets})


def make_objective(given: Ingredients) -> MultiHeadObjective:
    assert isinstance(given.network, MultiHeadModel)
    return MultiHeadObjective(given.network, given.task, given.job.datasets)


def network_for(network: Model | MultiHeadModel, task: TrainingTask, job: Job, dataset: str) -> nn.Module:
    del task, job
    assert isinstance(network, MultiHeadModel)
    return network.of(dataset)


MULTI_HEAD = Stage(
    name="multi_head",
    folder_name="MultiHead",
    title="multi-head model of {sources}",
    purpose="one encoder, one head per data set: the baseline",
    settings=COMMON,
    build_model=build_model,
    make_objective=make_objective,
    jobs=lambda maker, target, sources: [maker.multi_head((target, *sources))],
    column="multi-head",
    network_for=network_for,
    missing_sources="the data sets",
    draws_sources=True,
    several_heads=True,
)
