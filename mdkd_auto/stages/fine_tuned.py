"""A control: the target's model begins with the weights of a source's own teacher."""

from collections.abc import Sequence

import torch

from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.settings import COMMON
from mdkd_auto.stages.stage import Ingredients, Stage, single_head
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.training.interfaces import TrainingTask


def build_model(task: TrainingTask, job: Job) -> Model:
    return single_head(task, task.outputs(job.target))


def make_objective(given: Ingredients) -> TeacherObjective:
    job, model, task = given.job, given.model, given.task
    names = [tuple(channel.name for channel in given.classes[name].channels) for name in job.datasets]
    rows = rows_of_outputs(task, model.encoder, len(names[0]))
    continue_from(model, given.earlier.model(job.reads[0]), rows, *names)
    return TeacherObjective(model, task, job.target)


def rows_of_outputs(task: TrainingTask, encoder: Encoder, outputs: int) -> dict[str, int]:
    """Of each of the head's tensors that grows with the number of outputs: its rows for one more output."""
    with torch.random.fork_rng(devices=[]):
        some, more = (task.head(count, encoder).state_dict() for count in (outputs, outputs + 1))
    return {name: len(more[name]) - len(value) for name, value in some.items() if more[name].shape != value.shape}


def continue_from(
    model: Model, trained: Model, rows: dict[str, int], classes: Sequence[str], trained_classes: Sequence[str]
) -> None:
    """Give ``model`` the weights of ``trained``: of the output layer the ``rows`` of the classes that both have.

    Rows before those of the first class (a detector's background) are nobody's own and come along.
    """
    weights = trained.state_dict()
    for name, count in rows.items():
        own, theirs = model.state_dict()[f"head.{name}"].clone(), weights[f"head.{name}"]
        first = len(own) - count * len(classes)
        own[:first] = theirs[:first]
        for place, same in enumerate(classes):
            if same in trained_classes:
                start, found = (first + count * number for number in (place, trained_classes.index(same)))
                own[start : start + count] = theirs[found : found + count]
        weights[f"head.{name}"] = own
    model.load_state_dict(weights)


FINE_TUNED = Stage(
    name="fine_tuned",
    folder_name="FineTuned",
    title="model of {target} fine-tuned from {sources}",
    purpose="continues a source's own teacher on the target: a simple rival",
    settings=COMMON,
    build_model=build_model,
    make_objective=make_objective,
    jobs=lambda maker, target, sources: maker.fine_tuned(target, sources[0]),
    reads=("teacher",),
)
