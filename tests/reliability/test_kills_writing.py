"""Files while their writers are killed: under a final name always a whole one."""

import json
import os
import random
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from mdkd_auto.core.files import write_atomically, write_text
from mdkd_auto.training.checkpoints import load_training, load_weights, save_training, save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

LATEST, FINAL = "checkpoint_latest.safetensors", "checkpoint_final.safetensors"
SHORTEST_SPAN_SECONDS = 0.03


class Writer:
    """Checkpoints in which every number is the number of the checkpoint."""

    def __init__(self) -> None:
        self.model = nn.Sequential(*(nn.Linear(320, 320) for _ in range(4)))
        self.optimiser = torch.optim.Adam(self.model.parameters())
        self.model(torch.zeros(1, 320)).sum().backward()
        self.optimiser.step()

    def write(self, folder: Path, generation: int) -> None:
        entries = [value for entry in self.optimiser.state.values() for value in entry.values()]
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *entries):
                tensor.fill_(generation)
        save_training(folder / LATEST, self.model, self.optimiser, {"update": generation, "learning_rates": [0.1]})
        save_weights(folder / FINAL, self.model)

    def write_on(self, folder: Path, first: int, begun: int) -> None:
        os.write(begun, b".")
        for generation in count(first):
            self.write(folder, generation)

    def write_twice(self, folder: Path) -> None:
        self.write(folder, 1)
        self.write(folder, 2)


def generation_of(path: Path) -> int:
    """Read every tensor; all must hold one number, and the JSON beside them the same."""
    with safe_open(path, framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        state = (file.metadata() or {}).get("training_state")
    numbers = {int(part) for tensor in tensors for part in (tensor.min(), tensor.max())}
    if state is not None:
        numbers.add(json.loads(state)["update"])
    assert len(tensors) >= 8
    assert len(numbers) == 1, path
    return numbers.pop()


@pytest.mark.parametrize("kills", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_checkpoints_are_whole_whenever_their_writer_is_killed(
    kills: int, tmp_path: Path, fork: Callable[..., Any], litter: Callable[[Path], list[Path]]
) -> None:
    writer, rng = Writer(), random.Random(1)
    newest = {LATEST: 0, FINAL: 0}
    while_writing = opened = 0
    heard, begun = os.pipe()
    started = time.monotonic()
    assert fork(lambda: writer.write_twice(tmp_path / "trial")).wait() == 0
    span_seconds = max(SHORTEST_SPAN_SECONDS, time.monotonic() - started)  # of the moments to kill at
    for _ in range(kills):
        first = newest[LATEST] + 1
        child = fork(lambda first=first: writer.write_on(tmp_path, first, begun))
        os.read(heard, 1)
        time.sleep(rng.uniform(0, span_seconds))
        assert child.kill()
        left = litter(tmp_path)
        assert len(left) <= 1, "litter piles up"
        while_writing += any(f"_{child.pid}_" in path.name for path in left)
        for name, before in newest.items():
            if (tmp_path / name).exists():
                newest[name], opened = generation_of(tmp_path / name), opened + 1
                assert newest[name] >= before, "an older checkpoint came back"
    print(
        f"{kills} kills, {while_writing} while a file was being written; {opened} files opened, all whole; "
        f"{newest[LATEST]} checkpoints written"
    )
    assert while_writing >= kills // 25
    assert newest[FINAL] >= kills // 25
    assert fork(lambda: writer.write(tmp_path, newest[LATEST] + 1)).wait() == 0
    assert litter(tmp_path) == []
    assert load_training(tmp_path / LATEST, writer.model, writer.optimiser)["update"] == newest[LATEST] + 1
    load_weights(tmp_path / FINAL, writer.model)


def test_checkpoints_have_the_rights_of_other_files(tmp_path: Path) -> None:
    """Those that the user's umask gives, so that colleagues can read them."""
    Writer().write(tmp_path, 1)
    write_text(tmp_path / "plan.json", "{}")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


# --- what killed processes leave ------------------------------------------------------------------------------------


def left_by_a_killed_process(folder: Path, fork: Callable[..., Any]) -> Path:
    """A temporary file whose writer is dead."""

    def die(temporary: Path) -> None:
        temporary.write_text("half of")
        os.kill(os.getpid(), 9)

    assert fork(lambda: write_atomically(folder / "scores.csv", die)).wait() == -9
    (left,) = folder.glob(".tmp_*")
    return left


def test_the_next_process_removes_what_a_killed_one_left(
    tmp_path: Path, fork: Callable[..., Any], litter: Callable[[Path], list[Path]]
) -> None:
    left_by_a_killed_process(tmp_path, fork)
    assert not (tmp_path / "scores.csv").exists()
    assert fork(lambda: write_text(tmp_path / "another.csv", "whole")).wait() == 0
    assert litter(tmp_path) == []


def test_what_a_living_process_is_writing_stays(
    tmp_path: Path, fork: Callable[..., Any], litter: Callable[[Path], list[Path]]
) -> None:
    dead = left_by_a_killed_process(tmp_path, fork)

    def write_slowly(temporary: Path) -> None:
        temporary.write_text("half of ")
        os.utime(temporary, (0, 0))  # however old it looks
        assert fork(lambda: write_text(tmp_path / "another.csv", "whole")).wait() == 0
        assert litter(tmp_path) == [temporary]
        with open(temporary, "a") as file:
            file.write("it")

    dead_name = dead.name
    write_atomically(tmp_path / "scores.csv", write_slowly)
    assert (tmp_path / "scores.csv").read_text() == "half of it"
    assert dead_name not in {path.name for path in tmp_path.iterdir()}


def test_what_came_from_another_machine_goes_after_a_day(tmp_path: Path, fork: Callable[..., Any]) -> None:
    dead = left_by_a_killed_process(tmp_path, fork)
    elsewhere = tmp_path / f".tmp_{'0' * 8}_{dead.name.split('_', 2)[2]}"
    dead.rename(elsewhere)
    other = tmp_path / ".tmp_of_an_earlier_version.json"
    other.write_text("")
    assert fork(lambda: write_text(tmp_path / "a.csv", "whole")).wait() == 0
    assert elsewhere.exists()
    for path in (elsewhere, other):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert fork(lambda: write_text(tmp_path / "a.csv", "whole")).wait() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv"}
