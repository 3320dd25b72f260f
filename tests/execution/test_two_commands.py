"""Two commands on one root: they share the jobs, and each job is trained once."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from mdkd_auto import pipeline
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.settings import Settings
from mdkd_auto.demo.phantoms import LOOKS, write_datasets
from mdkd_auto.execution import run_job as run_module
from mdkd_auto.execution.run_job import HOLDER, run_jobs
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.stages.job import Job

BUDGET = ("--epochs", "1", "--iterations", "2", "--width", "2", "--batch-size", "4", "--device", "cpu")
TRAIN = """
import sys
import torch
from mdkd_auto.cli.train_all_permutations import main
torch.set_num_threads(1)
sys.exit(main())
"""
HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""

Copy = Callable[[Root], Root]


def start(program: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_commands_at_once(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write_datasets(root.raw, LOOKS[:2])
    pipeline.plan_and_preprocess(root, "CT", PlanRequest(configurations=("2d",)))
    commands = [start(TRAIN, "--root", root.folder, *BUDGET) for _ in range(2)]
    said = [command.communicate(timeout=120) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    trained = [re.findall(r"^\[(\d+)/9\] .*: done in ", out, flags=re.MULTILINE) for out, _ in said]
    found = [re.findall(r"^\[(\d+)/9\] .*: done before$", out, flags=re.MULTILINE) for out, _ in said]
    assert sorted(trained[0] + trained[1]) == list("123456789")  # each once
    assert all(sorted(one + other) == list("123456789") for one, other in zip(trained, found, strict=True))
    tables = [out[out.index("# CT_segmentation, 2d, fold 0") :] for out, _ in said]
    assert tables[0] == tables[1]
    assert not list(root.results.rglob(HOLDER))


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = start(HOLD, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Timeout):
        FileLock(path).acquire(timeout=0)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert path.is_file()
    with FileLock(path, timeout=0):
        pass
    holder.communicate()


@pytest.fixture
def jobs(
    planned: Root, copied: Copy, experiment_in: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> tuple[Experiment, list[Job], list[str]]:
    """A permutation whose jobs are done by writing down their stage."""
    experiment = experiment_in(copied(planned), Settings(device="cpu"))
    made = JobMaker(experiment).permutation("Dataset901_RoundBright", ("Dataset902_FlatFaint",))
    done: list[str] = []

    def pretend(_: Experiment, job: Job, folder: Path, title: str) -> None:
        done.append(job.stage)
        RunFolder(folder).finished.write_text("{}")

    monkeypatch.setattr(run_module, "_run", pretend)
    monkeypatch.setattr(run_module, "is_up_to_date", lambda *_: True)  # of scores that it does not write
    monkeypatch.setattr(run_module, "WAIT_SECONDS", 0.02)
    return experiment, made, done


def test_a_held_job_is_left_for_later_with_all_that_read_it(
    jobs: tuple[Experiment, list[Job], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The other process ends without finishing it: then it is done here."""
    caplog.set_level(logging.INFO)
    experiment, made, done = jobs
    folder = experiment.root.results / made[0].folder
    folder.mkdir(parents=True)
    lock = FileLock(RunFolder(folder).lock, thread_local=False)
    lock.acquire()
    (folder / HOLDER).write_text("process 7 on elsewhere")
    thread = threading.Timer(0.3, lock.release)
    thread.start()
    run_jobs([(experiment, job) for job in made])
    assert done == ["source_teacher", "multi_head", "teacher", "joint_teacher", "student"]
    assert [text for text in caplog.messages if "waiting" in text] == [
        "[1/5] teacher of Dataset901_RoundBright (2d, fold 0): held by process 7 on elsewhere; waiting"
    ]
    thread.join()


def test_a_job_that_another_process_finishes(jobs: tuple[Experiment, list[Job], list[str]]) -> None:
    experiment, made, done = jobs
    folder = experiment.root.results / made[0].folder
    folder.mkdir(parents=True)
    lock = FileLock(RunFolder(folder).lock, thread_local=False)
    lock.acquire()

    def finish() -> None:
        RunFolder(folder).finished.write_text("{}")
        lock.release()

    thread = threading.Timer(0.3, finish)
    thread.start()
    run_jobs([(experiment, job) for job in made])
    assert done == ["source_teacher", "multi_head", "joint_teacher", "student"]
    thread.join()
    run_jobs([(experiment, job) for job in made])
    assert len(done) == 4


def test_a_job_that_fails_is_held_no_more(
    jobs: tuple[Experiment, list[Job], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, made, _ = jobs
    folder = experiment.root.results / made[0].folder
    begun = time.monotonic()

    def fail(*_: Any) -> None:
        assert (folder / HOLDER).read_text() == f"process {os.getpid()} on {run_module.platform.node()}"
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_run", fail)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([(experiment, job) for job in made])
    assert not (folder / HOLDER).exists()
    FileLock(RunFolder(folder).lock).acquire(timeout=0).lock.release()
    assert time.monotonic() - begun < 5
