"""How long jobs may take: each kind of network is timed once, and more sources cost more."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mdkd_auto.experiments import estimate
from mdkd_auto.experiments.estimate import dry_run_text, estimated_seconds, seconds_per_update
from mdkd_auto.experiments.jobs import Experiment, Job, JobMaker, Network
from mdkd_auto.experiments.runs import Finished
from mdkd_auto.files import write_json
from mdkd_auto.paths import Root, RunFolder
from mdkd_auto.settings import Settings, replace

A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"
UNET, TRESUNET = Network("unet", 8), Network("tresunet", 8)
SECONDS = {UNET: 1.0, TRESUNET: 4.0}  # an update
MIXED = Settings(teacher_architecture="tresunet", student_architecture="unet", width=8, epochs=1,
                 iterations_per_epoch=10, device="cpu")  # fmt: skip
FINISHED = Finished(updates=6, seconds=1.0, seconds_per_update=0.1, best_validation_loss=1.0, best_validation_score=0.5)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """The networks that are timed."""
    asked: list[Network] = []

    def seconds(_: Experiment, job: Job) -> float:
        asked.append(Network(job.architecture, job.width))
        return SECONDS[asked[-1]]

    monkeypatch.setattr(estimate, "seconds_per_update", seconds)
    return asked


def test_each_kind_of_network_is_timed_once(
    planned: Root, experiment_in: Callable[..., Experiment], timed: list[Network]
) -> None:
    experiment = experiment_in(planned, MIXED)
    text = dry_run_text(experiment, JobMaker(experiment).permutation(A, (B, C)))
    assert sorted(timed) == sorted(SECONDS)
    # TResUNets: teacher 40, two source teachers 44 each, joint teacher 80; UNets: baseline 10, multi-head 30; a student
    # is a UNet that is taught by TResUNets: 10 + 0.8 x 40
    for seconds, count in ((40, 1), (44, 2), (80, 1), (10, 1), (42, 1), (30, 1)):
        assert text.count(f"about {seconds} s\n") == count
    assert "to do: at most about 5 min, at " in text  # 290 s
    assert "4000 ms an update of one TResUNet of width 8" in text
    assert "1000 ms an update of one UNet of width 8" in text


def test_only_what_is_to_do_is_timed(
    planned: Root, copied: Callable[[Root], Root], experiment_in: Callable[..., Experiment], timed: list[Network]
) -> None:
    experiment = experiment_in(copied(planned), MIXED)
    jobs = JobMaker(experiment).permutation(A, (B, C))
    for job in jobs:
        if job.architecture == "tresunet":
            write_json(RunFolder(experiment.root.results / job.folder).finished, FINISHED)
    without_student = [job for job in jobs if job.stage != "student"]
    assert dry_run_text(experiment, without_student).endswith(
        "to do: at most about 40 s, at 1000 ms an update of one UNet of width 8"
    )
    assert timed == [UNET]
    done = [job for job in jobs if job.architecture == "tresunet"]
    assert dry_run_text(experiment, done).endswith("\nto do: nothing")
    assert timed == [UNET]


def test_more_sources_cost_more(planned: Root, experiment_in: Callable[..., Experiment]) -> None:
    experiment = experiment_in(planned, MIXED)
    maker = JobMaker(experiment)
    for stage, costs in (("joint_teacher", (4 / 3, 5 / 3, 2)), ("student", (1 + 0.4 / 3, 1 + 1.4 / 3, 1.8))):
        for sources, cost in zip(((), (B,), (B, C)), costs, strict=True):
            (job,) = (one for one in maker.distilled(A, sources) if one.stage == stage)
            assert estimated_seconds(experiment, job, {UNET: 1.0, TRESUNET: 1.0}, job) == pytest.approx(10 * cost)


def test_a_batch_that_the_memory_does_not_hold_is_timed_in_parts(
    planned: Root, experiment_in: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, tried = 0, []

    def seconds(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> float:
        tried.append(shape[0])
        if shape[0] > held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return 0.5

    monkeypatch.setattr(estimate, "_seconds", seconds)
    experiment = experiment_in(planned, replace(MIXED, batch_size=6))
    job = JobMaker(experiment).specific(A)
    with pytest.raises(torch.OutOfMemoryError):
        seconds_per_update(experiment, job)
    for memory, sizes, expected in ((6, [6], 0.5), (2, [6, 3, 2], 2.0), (1, [6, 3, 2, 1], 3.0)):
        held, tried = memory, []
        assert seconds_per_update(experiment, job) == expected
        assert tried == sizes
