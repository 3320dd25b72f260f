"""Ctrl-C and SIGTERM as exceptions, so that what must be put right is; training ends between two updates."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: a cluster or a system that shuts down asks to end."""


@contextmanager
def termination_interrupts() -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """SIGTERM raises Terminated where Ctrl-C raises KeyboardInterrupt. Only the main thread can ask for it.

    Yields a function that gives the last interrupt raised, None while there is none: compiled libraries may swallow it
    and raise an error of their own, which then says nothing about the file they were reading. Where Ctrl-C is ignored,
    as in the background of a shell, it stays ignored.
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
