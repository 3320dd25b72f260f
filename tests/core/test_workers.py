"""Many cases at once: results in order, bad cases named, a dead worker survived, no process left behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mdkd_auto.core import workers as parallel
from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.files import WriteError
from mdkd_auto.core.workers import default_workers, free_bytes, map_cases, usable_workers

GB = 1_000_000_000

# Items for ``eval``: a builtin, which a worker can import.
KILLED = "__import__('os').kill(__import__('os').getpid(), 9)"
CRASHES = "__import__('os').kill(__import__('os').getpid(), 11)"
EXITS = "__import__('sys').exit(3)"
NO_MEMORY = "(_ for _ in ()).throw(MemoryError())"
HEAVY = "sorted({'torch', 'scipy', 'matplotlib', 'nibabel', 'SimpleITK'} & set(__import__('sys').modules))"
PROCESS = "__import__('os').getpid()"


def double(value: int) -> int:
    if value < 0:
        raise ImageError(f"{value} is negative")
    return 2 * value


@pytest.mark.parametrize("items", [{"a": 1, "b": -1, "c": 3}])
def test_a_bad_case_is_named_and_the_others_go_on(items: dict[str, int]) -> None:
    seen: list[tuple[int, int]] = []
    results, problems = map_cases(double, items, 1, lambda done, total: seen.append((done, total)))
    assert results == {"a": 2, "c": 6}
    assert problems == {"b": "-1 is negative"}
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unforeseen_error_says_its_type_and_is_logged(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    results, problems = map_cases(eval, {"a": "1 / 0", "b": "2", "c": "open('/no/such/file')"}, workers)
    assert results == {"b": 2}
    assert problems["a"] == "ZeroDivisionError: division by zero"
    assert problems["c"] == "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("case a: Traceback (most recent call last)")
    assert "ZeroDivisionError: division by zero" in record.getMessage()


@pytest.mark.parametrize("workers", [1, 2])
def test_lack_of_memory_says_what_to_do(workers: int) -> None:
    _, problems = map_cases(eval, {"a": NO_MEMORY, "b": "2"}, workers)
    assert problems == {"a": "not enough memory (MemoryError); use fewer workers (-j)"}


def test_workers_give_the_same_in_the_same_order() -> None:
    seen: list[tuple[int, int]] = []
    items = {"slow": "__import__('time').sleep(0.5)", "b": "2", "a": "'x' * 1_000_000", "c": "3"}
    results, problems = map_cases(eval, items, 2, lambda done, total: seen.append((done, total)))
    assert list(results.items()) == [("slow", None), ("b", 2), ("a", "x" * 1_000_000), ("c", 3)]
    assert problems == {}
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_workers_are_light_and_have_one_thread() -> None:
    before = {name: os.environ.get(name) for name in parallel.THREAD_VARIABLES}
    threads = f"[__import__('os').environ[name] for name in {parallel.THREAD_VARIABLES}]"
    results, _ = map_cases(eval, {"heavy": HEAVY, "threads": threads, "who": PROCESS}, 2)
    assert results["heavy"] == []
    assert results["threads"] == ["1", "1", "1"]
    assert results["who"] != os.getpid()
    assert {name: os.environ.get(name) for name in parallel.THREAD_VARIABLES} == before


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_this_process(workers: int) -> None:
    assert map_cases(eval, {"a": PROCESS, "b": PROCESS}, workers) == ({"a": os.getpid(), "b": os.getpid()}, {})
    assert map_cases(eval, {"a": PROCESS}, 4) == ({"a": os.getpid()}, {})
    assert map_cases(eval, {}, 4) == ({}, {})


# --- dead workers ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_dead_worker_costs_its_case_alone() -> None:
    """Each kind of death is named exactly, also when all workers die, and new ones do the rest."""
    items = {"killed": KILLED, "exits": EXITS, "b": "2", "crashes": CRASHES, "raises": "1 / 0", "c": "3"}
    items |= {f"d{number}": str(number) for number in range(4)} | {"last": KILLED}
    results, problems = map_cases(eval, items, 2)
    assert results == {"b": 2, "c": 3, "d0": 0, "d1": 1, "d2": 2, "d3": 3}
    assert problems == {
        "killed": "the worker process was killed by SIGKILL, most likely for lack of memory, while at this case; "
        "use fewer workers (-j)",
        "exits": "the worker process ended with exit code 3 while at this case",
        "crashes": "the worker process was killed by SIGSEGV while at this case",
        "raises": "ZeroDivisionError: division by zero",
        "last": problems["killed"],
    }
    assert left_of(os.getpid()) == []


def test_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The work is done all the same, in this process."""
    monkeypatch.setattr(parallel, "_serve", sys.exit)  # called with two arguments: an error
    results, problems = map_cases(eval, {"a": PROCESS, "b": "2", "c": "3"}, 2)
    assert (results, problems) == ({"a": os.getpid(), "b": 2, "c": 3}, {})
    assert "workers: the worker process ended with exit code 1 at its start" in caplog.messages


def left_of(process: int) -> list[str]:
    """Living descendants and zombies, but for Python's resource tracker, which ends with its process."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            command = "zombie or gone"
        if "resource_tracker" not in command:
            found.append(command)
    return found


def runs(process: psutil.Process) -> bool:
    """Whether it lives; an orphan that has ended may be a zombie until init looks at it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- interruptions --------------------------------------------------------------------------------------------------

SCRIPT = """
import signal, sys, time
from mdkd_auto.core.workers import map_cases

def terminate(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, terminate)
if __name__ == "__main__":
    items = {str(number): f"open({sys.argv[1]!r} + '/{number}', 'w').close() or __import__('time').sleep(60)"
             for number in range(4)}
    map_cases(eval, items, 3)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("cases_begun", [0, 3])
def test_an_interruption_leaves_no_process(kind: int, status: int, cases_begun: int, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group, as from a terminal; SIGTERM the parent alone. Also while the workers start."""
    script, begun = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(SCRIPT)
    begun.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(begun)], stderr=subprocess.PIPE, start_new_session=True)
    try:
        children: list[psutil.Process] = []
        while len(children) < 4 or len(list(begun.iterdir())) < cases_begun:  # the resource tracker is one
            assert parent.poll() is None
            children = psutil.Process(parent.pid).children(recursive=True)
            time.sleep(0.01)
        sent = time.monotonic()
        (os.killpg if kind == signal.SIGINT else os.kill)(parent.pid, kind)
        _, said = parent.communicate(timeout=20)
        assert time.monotonic() - sent < 5
        assert parent.returncode == status
        assert len(children) == 4
        _, left = psutil.wait_procs(children, timeout=2)  # the resource tracker ends after its process
        assert [child for child in left if runs(child)] == []
        assert said.decode().count("Traceback") == (1 if kind == signal.SIGINT else 0)  # the parent's own
    finally:
        parent.kill()


# --- how many -------------------------------------------------------------------------------------------------------


def set_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, available: float, **groups: str) -> None:
    """A machine with so many bytes free; ``groups``: files of the control groups, / written as __."""
    memory = psutil.virtual_memory()._replace(available=int(available))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    for path, content in groups.items():
        file = tmp_path / path.replace("__", "/").replace("memory_", "memory.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.setattr(parallel, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(parallel, "OWN_CGROUPS", tmp_path / "own")


def test_workers_fit_into_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    set_memory(monkeypatch, tmp_path, 6.1 * GB)
    assert usable_workers(8, int(2.4 * GB)) == 2  # 1 GB is left to the others
    assert caplog.messages == ["2 of 8 workers: 6.1 GB free, about 2.4 GB a worker"]
    assert usable_workers(2, int(2.4 * GB)) == 2
    assert usable_workers(8, 100 * GB) == 1
    assert usable_workers(8, 0) == 8
    assert usable_workers(0, 0) == 1
    assert len(caplog.messages) == 2
    set_memory(monkeypatch, tmp_path, 0.5 * GB)
    assert usable_workers(8, 1) == 1


def test_map_cases_keeps_within_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_memory(monkeypatch, tmp_path, 2 * GB)
    results, _ = map_cases(eval, {"a": PROCESS, "b": PROCESS}, 2, bytes_a_worker=GB)
    assert results == {"a": os.getpid(), "b": os.getpid()}


def test_the_limit_of_a_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Version 2: the tightest of the group and those above; file cache counts as free."""
    set_memory(
        monkeypatch,
        tmp_path,
        64 * GB,
        own="0::/job/step\n",
        cgroup__job__memory_max=f"{8 * GB}\n",
        cgroup__job__memory_current=f"{5 * GB}\n",
        cgroup__job__memory_stat=f"anon 7\ninactive_file {2 * GB}\n",
        cgroup__job__step__memory_max="max\n",
        cgroup__job__step__memory_current="1\n",
        cgroup__job__step__memory_stat="inactive_file 0\n",
    )
    assert free_bytes() == 5 * GB
    set_memory(monkeypatch, tmp_path, 3 * GB)
    assert free_bytes() == 3 * GB


def test_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Version 1, and a group that is not to be seen from inside: the limit stands at the root."""
    set_memory(
        monkeypatch,
        tmp_path,
        64 * GB,
        own="5:cpu,cpuacct:/docker/123\n4:memory:/docker/123\n0::/\n",
        cgroup__memory__memory_limit_in_bytes=f"{4 * GB}\n",
        cgroup__memory__memory_usage_in_bytes=f"{3 * GB}\n",
        cgroup__memory__memory_stat=f"inactive_file 1\ntotal_inactive_file {GB}\n",
    )
    assert free_bytes() == 2 * GB


def test_no_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_memory(monkeypatch, tmp_path, GB)
    assert free_bytes() == GB


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert default_workers() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert default_workers() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 1


def full_disk(case: int) -> int:
    if case == 2:
        raise WriteError("out.txt: cannot be written (No space left on device)")
    return case


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_no_problem_of_a_case(workers: int) -> None:
    with pytest.raises(WriteError, match="No space left"):
        map_cases(full_disk, {f"case_{number}": number for number in range(6)}, workers)
