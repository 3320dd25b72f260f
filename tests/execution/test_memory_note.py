"""A job that needs more than was planned for says so, and what to do."""

import math
import re
from collections.abc import Callable

import pytest

from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.execution.memory_note import memory_note
from mdkd_auto.execution.run_folder import describe
from mdkd_auto.execution.run_job import make_objective
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.memory import feature_map_elements, memory_needed_gb

A = "Dataset901_RoundBright"


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({}, 1.0),
        ({"width": 8}, 0.25),
        ({"width": 64}, 2.0),
        ({"teacher_architecture": "tresunet"}, 1.96),
        ({"teacher_architecture": "tresunet", "width": 32}, 0.98),
    ],
)
def test_what_a_network_needs(
    planned: Root, experiment_in: Callable[..., Experiment], changes: dict[str, str], times: float
) -> None:
    experiment = experiment_in(planned, Settings(**{"device": "cpu", **changes}))  # type: ignore[arg-type]
    run = describe(experiment, JobMaker(experiment).specific(A))
    objective = make_objective(experiment, run)
    own_gb = memory_needed_gb(16 * feature_map_elements(run.plan.patch_size, run.plan.topology), 2)
    assert memory_note(objective, run, 16, 100 * own_gb) is None
    note = memory_note(objective, run, 16, own_gb)
    if times <= 1:
        assert note is None
        return
    assert note is not None
    found = re.match(
        r"batches of 16 need about (\S+) GB in this network, the plan is for (\S+) GB\. On a smaller device use "
        r"--batch-size (\d+), a smaller --width or a plan made with --memory-gb \S+; else batches are split",
        note,
    )
    assert found is not None, note
    needed, given, fitting = map(float, found.groups())
    assert needed == pytest.approx(times * own_gb, rel=0.1)
    assert given == pytest.approx(own_gb, rel=0.01)
    assert fitting == math.floor(16 / (needed / given)) < 16
    alone = memory_note(objective, run, 1, own_gb / 16)
    assert alone is not None
    assert "--batch-size" not in alone
