"""How long jobs may take: each kind of network is timed once, and more sources cost more."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.settings import Settings, replace
from mdkd_auto.core.text import duration
from mdkd_auto.execution import estimate
from mdkd_auto.execution.estimate import dry_run_text, estimated_seconds, seconds_per_update
from mdkd_auto.execution.run_folder import Finished
from mdkd_auto.execution.scoring_time import ScoringTime, scoring_seconds, time_scoring
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.experiments.titles import titles_of
from mdkd_auto.preprocessing.case_store import read_case_record
from mdkd_auto.stages.job import Job, Network

A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"
UNET, TRESUNET = Network("unet", 8), Network("tresunet", 8)
SECONDS = {UNET: 1.0, TRESUNET: 4.0}  # an update
MIXED = Settings(
    teacher_architecture="tresunet",
    student_architecture="unet",
    width=8,
    epochs=1,
    iterations_per_epoch=10,
    device="cpu",
)
FINISHED = Finished(
    updates=6,
    seconds=1.0,
    seconds_per_update=0.1,
    best_validation_loss=1.0,
    best_validation_score=0.5,
    validation_share=0.1,
    parts=1,
)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """The networks that are timed."""
    asked: list[Network] = []

    def seconds(_: Experiment, job: Job) -> float:
        asked.append(Network(job.architecture, job.width))
        return SECONDS[asked[-1]]

    monkeypatch.setattr(estimate, "seconds_per_update", seconds)
    monkeypatch.setattr(estimate, "time_scoring", lambda *_: ScoringTime(1.0, 0.0))  # a second for each part
    return asked


def test_each_kind_of_network_is_timed_once(
    planned: Root, experiment_in: Callable[..., Experiment], timed: list[Network]
) -> None:
    experiment = experiment_in(planned, MIXED)
    text = dry_run_text(experiment, JobMaker(experiment).permutation(A, (B, C)), drawings=13)
    assert sorted(timed) == sorted(SECONDS)
    # TResUNets: teacher 40, two source teachers 44 each, joint teacher 80; UNets: baseline 10, multi-head 30; a student
    # is a UNet that is taught by TResUNets: 10 + 0.8 x 40. Validation: 2 forward passes in 10 updates, 1 / 15 more.
    # Scored are the validation and the test part; of a source teacher only the first, of the multi-head model three.
    for training, scoring, count in ((40, 2, 1), (44, 1, 2), (80, 2, 1), (10, 2, 1), (42, 2, 1), (30, 6, 1)):
        assert text.count(f"about {duration(training * 16 / 15 + scoring)} (scoring {scoring} s)\n") == count
    assert "to do: at most about 7 min: training 5 min (at " in text  # 290 * 16 / 15 + 16 + 65 = 390
    assert text.endswith("scoring 16 s, figures 65 s")
    assert "4000 ms per update of one TResUNet of width 8" in text
    assert "1000 ms per update of one UNet of width 8" in text


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
        "about 51 s: training 43 s (at 1000 ms per update of one UNet of width 8), scoring 8 s, figures 0 s"
    )
    assert timed == [UNET]
    done = [job for job in jobs if job.architecture == "tresunet"]
    assert dry_run_text(experiment, done).endswith("\nto do: nothing")
    assert timed == [UNET]


def test_jobs_of_one_title_are_told_apart(
    planned: Root, experiment_in: Callable[..., Experiment], timed: list[Network]
) -> None:
    jobs = []
    for seed, gamma in ((0, 0.5), (0, 0.25), (1, 0.5)):
        experiment = experiment_in(planned, replace(MIXED, seed=seed, gamma=gamma))
        jobs += [job for job in JobMaker(experiment).distilled(A, (B,)) if job.stage in ("student", "joint_teacher")]
    titles = titles_of(jobs)
    student, joint = f"student of {A} from 902 (2d, fold 0)", f"joint teacher of {A} from 902 (2d, fold 0)"
    assert sorted(titles.values()) == [
        f"{joint}: seed 0",
        f"{joint}: seed 1",
        f"{student}: seed 0, gamma 0.25",
        f"{student}: seed 0, gamma 0.5",
        f"{student}: seed 1, gamma 0.5",
    ]
    text = dry_run_text(experiment, jobs)
    assert "5 jobs" in text.splitlines()[0]  # the joint teacher of two of them is one job
    assert all(text.count(f"] {title}: to do, about ") == 1 for title in titles.values())
    assert titles_of(jobs[:1]) == {jobs[0].folder: joint}


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (0.001, None),  # 13 minutes: as it is
        (1.0, "--epochs 168 --iterations 250 takes this CPU about 12.0 h"),  # 43200 / 1.0267 = 42077 updates
        (10.0, "--epochs 40 --iterations 105 takes this CPU about 12.0 h"),
        (1000.0, "in 12.0 h this CPU makes 42 updates per network, too few: use a GPU"),
    ],
)
def test_a_cpu_with_the_default_budget_is_told_what_fits(
    update: float,
    expected: str | None,
    planned: Root,
    experiment_in: Callable[..., Experiment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimate, "seconds_per_update", lambda *_: update)
    monkeypatch.setattr(estimate, "time_scoring", lambda *_: None)
    experiment = experiment_in(planned, Settings(device="cpu"))
    text = dry_run_text(experiment, JobMaker(experiment).permutation(A, ()))
    assert "scoring could not be timed on all networks" in text
    assert (expected is None) == ("the default budget" not in text)
    if expected is not None:
        assert expected in text
    shorter = experiment_in(planned, Settings(device="cpu", epochs=299))
    assert "the default budget" not in dry_run_text(shorter, JobMaker(shorter).permutation(A, ()))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (89.4, "89 s"),
        (90.0, "2 min"),
        (5399.0, "90 min"),
        (5400.0, "1.5 h"),
        (129_599.0, "36.0 h"),
        (129_600.0, "1.5 days"),
        (8_640_000.0, "100.0 days"),
    ],
)
def test_durations_in_words(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_scoring_is_timed_on_real_cases_and_leaves_nothing(
    planned: Root, experiment_in: Callable[..., Experiment]
) -> None:
    experiment = experiment_in(planned, Settings(device="cpu", width=4))
    before = sorted(planned.folder.rglob("*"))
    job = JobMaker(experiment).specific(A)
    cost = time_scoring(experiment, job)
    assert cost is not None
    assert cost.once + cost.per_voxel > 0
    (val,), (test,) = experiment.fold(A).val, experiment.splits[A].test
    voxels = [math.prod(read_case_record(planned.cases(A, "2d"), case).shape) for case in (val, test)]
    assert scoring_seconds(experiment, job, ScoringTime(3.0, 2.0)) == 6.0 + 2.0 * sum(voxels)
    assert sorted(planned.folder.rglob("*")) == before


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
