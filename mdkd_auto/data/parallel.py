"""The same work on many cases: in this process or in several, where one bad case does not stop the others."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from mdkd_auto.errors import MdkdError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # cases done, cases in all

log = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def map_cases(
    work: Callable[[Item], Result], items: Mapping[str, Item], workers: int, progress: Progress | None = None
) -> tuple[dict[str, Result], dict[str, str]]:
    """Call ``work`` on every item. Returns the results and, for the cases that failed, what went wrong.

    ``workers`` <= 1 works in this process. Otherwise ``work`` and the items must be picklable; if a worker
    process dies, the cases in its pool's hands are reported and the remaining ones are done in this process.
    """
    results: dict[str, Result] = {}
    problems: dict[str, str] = {}

    def settle(name: str, outcome: Callable[[], Result]) -> None:
        try:
            results[name] = outcome()
        except BrokenProcessPool:
            raise
        except MdkdError as error:
            problems[name] = str(error)
        except Exception as error:
            log.exception("case %s", name)
            problems[name] = f"{type(error).__name__}: {error}"
        if progress is not None:
            progress(len(results) + len(problems), len(items))

    if workers > 1 and len(items) > 1:
        problems.update(_map_in_pool(work, items, min(workers, len(items)), settle))
    for name, item in items.items():
        if name not in results and name not in problems:
            settle(name, lambda item=item: work(item))  # type: ignore[misc]
    return {name: results[name] for name in items if name in results}, problems


def _map_in_pool(
    work: Callable[[Item], Result],
    items: Mapping[str, Item],
    workers: int,
    settle: Callable[[str, Callable[[], Result]], None],
) -> dict[str, str]:
    """Work through the items; returns the cases that were in flight when a worker died (then some are undone)."""
    waiting = iter(items.items())
    running: dict[Future[Result], str] = {}
    with (
        _one_thread_a_child(),
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        try:
            while True:
                while len(running) < workers and (following := next(waiting, None)) is not None:
                    running[pool.submit(work, following[1])] = following[0]
                if not running:
                    return {}
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    settle(running[future], future.result)
                    del running[future]
        except BrokenProcessPool:
            names = ", ".join(running.values())
            log.warning("a worker process died; cases in flight: %s", names)
            message = f"a worker process died (out of memory?) during these cases: {names}; use fewer workers"
            return dict.fromkeys(running.values(), message)


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
