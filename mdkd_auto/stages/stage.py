"""What a stage of the method is: one object that says everything the program knows about a kind of job."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import nn

from mdkd_auto.core.records import DEFAULT_TASK, Task
from mdkd_auto.core.settings import TASK_SETTINGS, Settings
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.stages.job import Job, StageName
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.scored_part import TEST, VALIDATION
from mdkd_auto.training.interfaces import Objective, TrainingTask


class EarlierResults(Protocol):
    """Results of the finished jobs that a job reads."""

    def model(self, folder: str) -> Model:
        """The best weights of a run folder, which is one of ``Job.reads``."""

    def source_weights(self) -> Sequence[float]:
        """One weight per teacher, the target's first."""

    def distillation_weight(self) -> float:
        """Factor of the student's distillation losses."""

    def baseline_scores(self) -> Sequence[float]:
        """Validation score per epoch of the student's network trained alone; () where it is not needed."""


class Ingredients(NamedTuple):
    """What a stage makes its objective from."""

    job: Job
    settings: Settings
    task: TrainingTask
    network: Model | MultiHeadModel  # :attr:`Stage.build_model`'s, with pretrained weights where given
    classes: Mapping[str, Classes]  # by data set
    earlier: EarlierResults

    @property
    def model(self) -> Model:
        """The network of a stage with one head."""
        assert isinstance(self.network, Model)
        return self.network


class MakesJobs(Protocol):
    """Makes the jobs of an experiment."""

    def specific(self, target: str) -> Job:
        """The student's network, trained on the target alone."""

    def distilled(self, target: str, sources: tuple[str, ...]) -> list[Job]:
        """Teachers, joint teacher, baseline and student, in an order in which each finds what it reads."""

    def fine_tuned(self, target: str, source: str) -> list[Job]:
        """The source's own model, then the target's, which continues it."""

    def multi_head(self, datasets: tuple[str, ...]) -> Job:
        """One model of several data sets."""


def whole_network(network: Model | MultiHeadModel, task: TrainingTask, job: Job, dataset: str) -> nn.Module:
    """The network as it is, for a stage whose outputs are all the target's."""
    del task, job, dataset
    return network


class Stage(NamedTuple):
    """One stage of the method, or a baseline."""

    name: StageName
    folder_name: str  # the first word of a run folder's name
    title: str  # with {target} and {sources}
    purpose: str
    settings: tuple[str, ...]  # names of those its result depends on
    build_model: Callable[[TrainingTask, Job], Model | MultiHeadModel]  # random weights from torch's generator
    make_objective: Callable[[Ingredients], Objective]
    jobs: Callable[[MakesJobs, str, tuple[str, ...]], list[Job]]  # what a target and its sources need, this stage last
    own_settings: Callable[[Settings], dict[str, Any]] = lambda settings: {}  # read otherwise than their value
    reads: tuple[StageName, ...] = ()
    column: str | None = None  # in the result tables
    network: Literal["teachers", "students"] = "students"
    network_for: Callable[[Model | MultiHeadModel, TrainingTask, Job, str], nn.Module] = whole_network
    knows_sources: bool = True  # whether the result depends on the job's sources
    missing_sources: str = ""  # what a job without sources lacks; "": it may have none
    draws_sources: bool = False  # training batches from the sources, too
    several_heads: bool = False  # one head per data set, and no target of its own
    distils: bool = False  # learns from a joint teacher: the model that users predict with
    scored_parts: tuple[str, ...] = (VALIDATION, TEST)
    cost: float = 1.0  # of an update against a teacher's, with two sources
    runs_all_teachers: bool = False  # each update runs every frozen teacher
    fewest_images: int = 1  # of a batch, below which a loss is left out
    check: Literal["source_use", "distillation"] | None = None  # what checks.json reports after training

    def datasets(self, target: str, sources: tuple[str, ...]) -> tuple[str, ...]:
        """Every data set that a job of these uses, the target first."""
        return sources if self.several_heads else (target, *sources)

    def drawn(self, job: Job) -> tuple[str, ...]:
        """Data sets that training and validation batches are drawn from."""
        return job.datasets if self.draws_sources else (job.target,)

    def predicted(self, job: Job) -> tuple[str, ...]:
        """Data sets that the job's model is scored on and predicts."""
        return job.datasets if self.several_heads else (job.target,)

    def head_of(self, dataset: str) -> str | None:
        """The data set whose head is meant, where there are several."""
        return dataset if self.several_heads else None

    def serves(self, job: Job, target: str, sources: tuple[str, ...]) -> bool:
        """Whether a job of this stage is one of a target with these sources."""
        if self.several_heads:
            return set(job.datasets) == {target, *sources}
        return job.target == target and (job.sources == sources or not self.knows_sources)

    def settings_of(self, settings: Settings, task: Task = DEFAULT_TASK) -> dict[str, Any]:
        """The settings that a result of this stage depends on, with the task's own."""
        named = {name: getattr(settings, name) for name in self.settings}
        return named | self.own_settings(settings) | TASK_SETTINGS[task].named(settings, self.name)

    def title_of(self, job: Job) -> str:
        """The job in a few words: student of Dataset011_A from 012, 013."""
        sources = ", ".join(source[7:10] for source in job.sources)
        return self.title.format(target=job.target, sources=sources or "itself alone")


def single_head(task: TrainingTask, outputs: int) -> Model:
    """A new network with one head."""
    encoder = task.encoder()
    return Model(encoder, task.head(outputs, encoder))
