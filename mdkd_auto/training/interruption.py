"""Turn Ctrl-C and SIGTERM into exceptions, so that cleanup runs; training ends between two updates."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived, e.g. from a cluster scheduler or a shutdown."""


@contextmanager
def termination_interrupts() -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """Raise Terminated on SIGTERM, as Ctrl-C raises KeyboardInterrupt. Only the main thread can install this.

    Yields a function that returns the last interrupt raised, or None: compiled libraries may swallow an interrupt and
    raise an error of their own, which then says nothing about the file they were reading. If Ctrl-C is ignored, as for
    a background job of a shell, it stays ignored.
    """
    raised: type[KeyboardInterrupt] | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        del frame
        raised = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        raise raised

    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _handled(interrupt, signal.SIGTERM, *((signal.SIGINT,) if by_default else ())):
        yield lambda: raised


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """Yield a function that returns the pending interrupt, or None.

    A second Ctrl-C or SIGTERM interrupts at once. Only the main thread can handle signals; elsewhere nothing is
    deferred.
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
