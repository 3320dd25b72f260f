"""Progress in a log: how far, and in whose words."""

import logging

import pytest

from mdkd_auto.core import progress as module


@pytest.mark.parametrize(
    ("counted", "note", "expected"),
    [
        (True, "case_1", "reading: 1 of 3 case_1"),
        (True, "", "reading: 1 of 3"),
        (False, "epoch 1/2", "reading: epoch 1/2"),
    ],
)
def test_a_line_in_a_log(
    counted: bool, note: str, expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), module.progress("reading", counted) as advance:
        advance(1, 3, note)
    assert caplog.messages == [expected]


@pytest.mark.parametrize("counted", [True, False])
def test_a_bar_on_a_terminal_vanishes(
    counted: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with caplog.at_level(logging.INFO), module.progress("training", counted) as advance:
        for number in range(3):
            advance(number, 3, f"epoch {number}/3")
    assert caplog.messages == []
