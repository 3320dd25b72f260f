"""Ctrl-C and SIGTERM end training between two updates, never within one, so that what is saved is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether to stop. A second Ctrl-C interrupts at once, as usual.

    Outside the main thread signals are not ours to handle; then nothing is deferred.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    stop = False

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        del number, frame
        if stop:
            raise KeyboardInterrupt
        stop = True

    before = {kind: signal.signal(kind, ask_to_stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
