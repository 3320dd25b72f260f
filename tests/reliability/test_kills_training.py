"""Training that is killed, once or twice, and goes on: the end is that of a run nobody disturbed, bit for bit."""

import csv
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.training.loop import BEST, FINAL

STAGES = ("teacher", "source_teacher", "joint_teacher", "student", "multi_head")
CLOCK = "clock"  # at a random moment
POINTS = (  # what is killed: the n-th call of a method, the n-th renaming of a finished file, or whatever goes on
    (("losses", 7),),
    (("replace", 4), (CLOCK, 0)),
    (("validate", 3),),
    ((CLOCK, 0),),
    (("losses", 1), ("validate", 2)),
    ((CLOCK, 0), (CLOCK, 0)),
)
MINUTES = (0.0, 0.0005)  # between checkpoints: after every update, after some


class Whole:
    """Undisturbed runs, one a stage."""

    def __init__(self, folder: Path, train: Callable[..., None], fork: Callable[..., Any]) -> None:
        self.folder, self.train, self.fork = folder, train, fork
        self.seconds: dict[str, float] = {}

    def run(self, stage: str) -> Path:
        if stage not in self.seconds:
            started = time.monotonic()
            assert self.fork(lambda: self.train(stage, self.folder / stage)).wait() == 0
            self.seconds[stage] = time.monotonic() - started
        return self.folder / stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., None], fork: Callable[..., Any]) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"), train, fork)


def die_at(method: str, call: int) -> Callable[[Any], None]:
    """Kill this process when ``method`` of the objective, or os.replace, is called for the ``call``-th time."""

    def change(objective: Any) -> None:
        owner = os if method == "replace" else objective
        original, calls = getattr(owner, method), [0]

        def counted(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(owner, method, counted)

    return change


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "progress.csv", encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("points", [1, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_as_one_that_nobody_disturbed(
    stage: str,
    points: int,
    tmp_path: Path,
    whole: Whole,
    train: Callable[..., None],
    fork: Callable[..., Any],
    litter: Callable[[Path], list[Path]],
    open_all: Callable[[Path], int],
) -> None:
    expected, number = whole.run(stage), STAGES.index(stage)
    rng, kills, opened = random.Random(number), 0, 0
    for index in range(number, number + points):
        start = partial(train, stage, tmp_path / str(index), MINUTES[index % 2])
        for where, call in POINTS[index % len(POINTS)]:
            if where == CLOCK:
                child = fork(start)
                time.sleep(rng.uniform(0.1, 0.9) * whole.seconds[stage])
                kills += child.kill()  # a fast one may have ended
            else:
                assert fork(partial(start, change=die_at(where, call))).wait() == -signal.SIGKILL
                kills += 1
            opened += open_all(tmp_path)
        assert fork(start).wait() == 0
        folder = tmp_path / str(index)
        for name in (FINAL, BEST):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), (index, name)
        assert rows(folder) == rows(expected)
        assert litter(folder) == []
    print(f"{stage}: {points} runs, {kills} kills, {opened} files opened after them, all ended with the same weights")
    assert kills >= points - 1


def test_the_comparison_sees_another_batch(
    tmp_path: Path, whole: Whole, train: Callable[..., None], fork: Callable[..., Any]
) -> None:
    def last_batch_is_the_first(objective: Any) -> None:
        losses, seen = objective.losses, []

        def changed(batches: Any, progress: float) -> Any:
            seen.append(batches)
            return losses(seen[0] if len(seen) == 12 else batches, progress)

        objective.losses = changed

    expected = whole.run("teacher")
    assert fork(lambda: train("teacher", tmp_path, 0.0, last_batch_is_the_first)).wait() == 0
    assert (tmp_path / FINAL).read_bytes() != (expected / FINAL).read_bytes()
