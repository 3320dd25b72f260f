"""Stage 2: the joint teacher fuses the frozen teachers' encoders and learns the target with a new head."""

from typing import Any

import torch

from mdkd_auto.batches.sampling import seed_of
from mdkd_auto.core.settings import Settings
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.stages.job import Job, Network
from mdkd_auto.stages.settings import COMMON
from mdkd_auto.stages.stage import Ingredients, MakesJobs, Stage
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.training.interfaces import TrainingTask


def build_model(task: TrainingTask, job: Job) -> Model:
    networks = job.teachers or (Network(job.architecture, job.width),) * len(job.datasets)
    encoder = task.joint_encoder([task.encoder(*network) for network in networks], None)
    return Model(encoder, task.head(task.outputs(job.target), encoder))


def make_objective(given: Ingredients) -> TeacherObjective:
    """A joint encoder on the trained teachers, and a new head."""
    job, task, seed = given.job, given.task, given.settings.seed
    teachers = [given.earlier.model(folder).encoder for folder in job.reads]
    if len(teachers) < len(job.datasets):
        teachers += untrained_sources(task, job, seed)
    torch.manual_seed(seed)
    encoder = task.joint_encoder(teachers, given.earlier.source_weights())
    return TeacherObjective(Model(encoder, task.head(task.outputs(job.target), encoder)), task, job.target)


def untrained_sources(task: TrainingTask, job: Job, seed: int) -> list[Encoder]:
    """The control: encoders of the sources' kinds, each with its own random weights, which differ from those that the
    target's teacher began with."""
    encoders = []
    for source, network in zip(job.sources, job.teachers[1:], strict=True):
        torch.manual_seed(seed_of(source, seed))
        encoders.append(task.encoder(*network))
    return encoders


def own_settings(settings: Settings) -> dict[str, Any]:
    """Without target labels nothing tells how reliable a source teacher is."""
    return {"reliability": settings.reliability and settings.target_label_weight > 0}


def jobs(maker: MakesJobs, target: str, sources: tuple[str, ...]) -> list[Job]:
    return [job for job in maker.distilled(target, sources) if job.stage != "student"]


JOINT_TEACHER = Stage(
    name="joint_teacher",
    folder_name="JointTeacher",
    title="joint teacher of {target} from {sources}",
    purpose="fuses the frozen teachers",
    settings=(*COMMON, "fuse", "attention_keys", "reliability", "untrained_sources"),
    own_settings=own_settings,
    build_model=build_model,
    make_objective=make_objective,
    jobs=jobs,
    reads=("teacher", "source_teacher"),
    column="joint teacher",
    network="teachers",
    cost=2.0,
    runs_all_teachers=True,
    check="source_use",
)
