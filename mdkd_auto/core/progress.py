"""Progress for people: a bar on a terminal, a plain line now and then in a log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("mdkd_auto")

LOG_EVERY_SECONDS = 30.0


class Advance(Protocol):
    """Called with the number of steps done so far and a few words on the latest."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress(description: str, counted: bool = True) -> Iterator[Advance]:
    """Show how far a long piece of work is; the bar vanishes when it ends.

    Not ``counted``: the note alone says how far, and how long it takes.
    """
    if not sys.stderr.isatty():
        yield _plain(description, counted)
        return
    counts = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) if counted else ()
    note_column = TextColumn("{task.fields[note]}", markup=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, note_column)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield advance


def _plain(description: str, counted: bool) -> Advance:
    last = time.monotonic()

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            logger.info("%s: %s", description, f"{done} of {total} {note}".rstrip() if counted else note)

    return advance
