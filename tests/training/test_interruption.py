"""Ctrl-C and SIGTERM: which of them came, when it is told, and whose handlers are in place afterwards."""

import signal
import threading
from collections.abc import Iterator

import pytest

from mdkd_auto.training.interruption import Terminated, deferred_interrupts, termination_interrupts


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Nothing is left installed."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    assert [signal.getsignal(kind) for kind in kinds] == before


def test_sigterm_is_an_exception() -> None:
    with pytest.raises(Terminated), termination_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert issubclass(Terminated, KeyboardInterrupt)  # no ``except Exception`` stops it


@pytest.mark.parametrize(("kind", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_the_first_is_deferred_the_second_is_not(kind: int, raised: type[KeyboardInterrupt]) -> None:
    with deferred_interrupts() as stop:
        assert stop() is None
        signal.raise_signal(kind)
        assert stop() is raised
        assert stop() is raised
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(kind)
        assert caught.type is raised


def test_deferring_within_a_command() -> None:
    with termination_interrupts():
        with deferred_interrupts() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop() is Terminated
        with pytest.raises(Terminated):  # the command's handler is back
            signal.raise_signal(signal.SIGTERM)


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with termination_interrupts(), deferred_interrupts() as stop:
            seen.append(stop())
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, signal.getsignal(signal.SIGTERM)]
