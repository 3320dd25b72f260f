"""The same work on many cases, in this process or in several: one bad case or dead worker does not stop the others."""

import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import WriteError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # cases done, cases in all

log = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MOST_DEFAULT_WORKERS = 8
RESERVE_BYTES = 1_000_000_000  # left to this process and to all else on the machine
GRACE_SECONDS = 2.0  # for a worker to clear away what it was writing, before it is killed
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def map_cases(
    work: Callable[[Item], Result],
    items: Mapping[str, Item],
    workers: int,
    progress: Progress | None = None,
    bytes_a_worker: int = 0,
) -> tuple[dict[str, Result], dict[str, str]]:
    """Call ``work`` on every item. Returns the results and, for the cases that failed, what went wrong.

    ``workers`` <= 1 works in this process. Otherwise ``work``, the items and the results must be picklable. A worker
    process that dies costs the case it was at, and another one takes its place. ``bytes_a_worker``, where it is known,
    keeps the number of workers within the memory that is free. Raises WriteError where the disk is full.
    """
    results: dict[str, Result] = {}
    problems: dict[str, str] = {}

    def settle(name: str, outcome: _Outcome) -> None:
        if outcome.ends_all:
            raise WriteError(outcome.problem)
        if outcome.problem is None:
            results[name] = outcome.result
        else:
            problems[name] = outcome.problem
        if outcome.traceback is not None:
            log.error("case %s: %s", name, outcome.traceback)
        if progress is not None:
            progress(len(results) + len(problems), len(items))

    count = usable_workers(min(workers, len(items)), bytes_a_worker)
    if count > 1:
        _map_in_pool(work, items, count, settle)
    for name, item in items.items():
        if name not in results and name not in problems:
            settle(name, _attempt(work, item))
    return {name: results[name] for name in items if name in results}, problems


class _Outcome(NamedTuple):
    """What a case gave, or what went wrong with it; a traceback where nobody foresaw that."""

    result: Any = None
    problem: str | None = None
    traceback: str | None = None
    ends_all: bool = False  # not the case's fault: a full disk


def _attempt(work: Callable[[Item], Any], item: Item) -> _Outcome:
    try:
        return _Outcome(work(item))
    except WriteError as error:
        return _Outcome(problem=str(error), ends_all=True)
    except MdkdError as error:
        return _Outcome(problem=str(error))
    except MemoryError as error:
        return _Outcome(problem=f"not enough memory ({str(error) or 'MemoryError'}); use fewer workers (-j)")
    except Exception as error:
        refused = isinstance(error, OSError) and error.errno is not None  # by the system, which says why
        return _Outcome(
            problem=f"{type(error).__name__}: {error}", traceback=None if refused else traceback.format_exc()
        )


# --- worker processes -----------------------------------------------------------------------------------------------


class _Worker:
    """A child process, our end of the pipe to it, and the case it is at (None while it starts)."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.case: str | None = None


def _map_in_pool(
    work: Callable[[Item], Any], items: Mapping[str, Item], count: int, settle: Callable[[str, _Outcome], None]
) -> None:
    """Work through the items. Cases are left unsettled only if no worker can be started."""
    waiting = deque(items)
    started: list[_Worker] = []
    try:
        for _ in range(count):
            _start(work, started)
        working = list(started)
        while working:
            heard = wait([end for worker in working for end in (worker.connection, worker.process.sentinel)])
            for worker in [each for each in working if each.connection in heard or each.process.sentinel in heard]:
                outcome = _receive(worker)
                if outcome is None:
                    working.remove(worker)
                    problem = _death(worker)
                    log.warning("%s: %s", worker.case or "workers", problem)
                    if worker.case is not None:
                        settle(worker.case, _Outcome(problem=problem))
                        if waiting:
                            working.append(_start(work, started))
                    continue
                if worker.case is not None:
                    settle(worker.case, outcome)
                if waiting:
                    worker.case = waiting.popleft()
                    with suppress(OSError):  # it just died: the next round hears of it
                        worker.connection.send(items[worker.case])
                else:
                    working.remove(worker)
                    worker.connection.close()  # ends it
    finally:
        _end(started)


def _start(work: Callable[[Item], Any], started: list[_Worker]) -> _Worker:
    """Start a worker and put it on the list; what would interrupt that is held back."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = _Worker(context.Process(target=_serve, args=(theirs, work), daemon=True), ours)
    with _one_thread_a_child(), _held_back():
        worker.process.start()
        started.append(worker)
    theirs.close()
    return worker


def _serve(connection: Connection, work: Callable[[Item], Any]) -> None:
    """A worker's life: cases in, outcomes out, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with what stands in finally
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with suppress(EOFError, OSError):
        connection.send(_Outcome())  # ready
        while True:
            connection.send(_attempt(work, connection.recv()))


def _receive(worker: _Worker) -> _Outcome | None:
    """What the worker sent; None from a dead one."""
    try:
        return worker.connection.recv() if worker.connection.poll() else None
    except (EOFError, OSError):
        return None


def _death(worker: _Worker) -> str:
    """How and where a worker died, and what to do."""
    worker.process.join(GRACE_SECONDS)
    code = worker.process.exitcode
    where = "while at this case" if worker.case is not None else "at its start"
    if code is None or code >= 0:
        return f"the worker process ended with exit code {code} {where}"
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    if name == "SIGKILL":
        return (
            f"the worker process was killed by SIGKILL, most likely for lack of memory, {where}; use fewer workers (-j)"
        )
    return f"the worker process was killed by {name} {where}"


def _end(workers: list[_Worker]) -> None:
    """End what still runs and wait for it: no process is left, and none is a zombie."""
    for worker in workers:
        worker.connection.close()
        if worker.process.is_alive():
            worker.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def _one_thread_a_child() -> Iterator[None]:
    """Children share the cores: each gets one thread for its linear algebra."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _held_back() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM; a child started meanwhile has them blocked from its first instruction on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the first start of a child would do it, and unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- how many -------------------------------------------------------------------------------------------------------


def default_workers() -> int:
    """One for each core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_DEFAULT_WORKERS, cores)


def usable_workers(wanted: int, bytes_a_worker: int) -> int:
    """As many of the ``wanted`` workers as the free memory can hold, at least one; says so where it is fewer."""
    if bytes_a_worker <= 0 or wanted <= 1:
        return max(1, wanted)
    free = free_bytes()
    usable = max(1, min(wanted, (free - RESERVE_BYTES) // bytes_a_worker))
    if usable < wanted:
        words = "%d of %d workers: %.1f GB free, about %.1f GB a worker"
        log.info(words, usable, wanted, free / 1e9, bytes_a_worker / 1e9)
    return usable


def free_bytes() -> int:
    """Memory that may still be taken: what the machine has, or what the limits of our control groups leave."""
    return min([psutil.virtual_memory().available, *_left_in_cgroups()])


def _left_in_cgroups() -> Iterator[int]:
    """What each memory limit set on this process (version 2 or 1, on its group or a group above) leaves."""
    with suppress(OSError):  # not Linux
        for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, limit, usage, cache = CGROUPS, "memory.max", "memory.current", "inactive_file"
            elif "memory" in controllers.split(","):
                root, limit, usage = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
                cache = "total_inactive_file"
            else:
                continue
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError, KeyError):  # no such file in a container; no limit: "max"
                    statistics = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                    used = int((folder / usage).read_text()) - int(statistics[cache])  # that cache is given up first
                    yield max(0, int((folder / limit).read_text()) - used)
                if folder == root:
                    break
