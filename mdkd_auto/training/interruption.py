"""Ctrl-C and SIGTERM as exceptions, so that what must be put right is; training ends between two updates."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: a cluster or a system that shuts down asks to end."""


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM raises Terminated where Ctrl-C would raise KeyboardInterrupt. Only the main thread can ask for it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Terminated

    with _handled(interrupt, signal.SIGTERM):
        yield


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """Yields a function that gives the interrupt to raise, None while there is none.

    A second Ctrl-C or SIGTERM interrupts at once. Outside the main thread signals are not ours to handle; then nothing
    is deferred.
    """
    wanted: type[KeyboardInterrupt] | None = None

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        del frame
        again, wanted = wanted is not None, Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if again:
            raise wanted

    with _handled(remember, signal.SIGINT, signal.SIGTERM):
        yield lambda: wanted


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *kinds: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, earlier in before.items():
            signal.signal(kind, earlier)
