"""One training: its stage, its inputs and its folder."""

from typing import Any, Literal, NamedTuple

from mdkd_auto.core.records import Record
from mdkd_auto.core.settings import Architecture

StageName = Literal["teacher", "source_teacher", "joint_teacher", "student", "fine_tuned", "multi_head"]


class Network(NamedTuple):
    """The kind of network of a job."""

    architecture: Architecture
    width: int | None  # None: the plan's, or the published one


class Job(Record, frozen=True, kw_only=True):
    """One training. ``folder`` and ``reads`` are relative to results/."""

    stage: StageName
    target: str  # data set; the group for multi_head
    sources: tuple[str, ...]
    group: str
    configuration: str
    fold: int
    architecture: Architecture
    width: int | None
    label_fraction: float = 1.0  # of the target's training patients
    teachers: tuple[Network, ...] = ()  # of a joint teacher, where not all are its own, or not all are trained
    folder: str
    reads: tuple[str, ...]
    identity: dict[str, Any]  # all that the result depends on; hashed into the folder's name

    @property
    def datasets(self) -> tuple[str, ...]:
        """Every data set the job uses, the target first; a multi-head model has no target of its own."""
        return self.sources if self.stage == "multi_head" else (self.target, *self.sources)
