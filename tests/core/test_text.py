import os

import pytest

from mdkd_auto.core.text import duration, escaped, is_utf8, shown


@pytest.mark.parametrize(
    ("name", "sound", "written"),
    [(b"Mueller", True, "Mueller"), (b"M\xfcller", False, "M\\xfcller"), ("Müller".encode(), True, "Müller")],
)
def test_names_of_files(name: bytes, sound: bool, written: str) -> None:
    text = os.fsdecode(name)
    assert is_utf8(text) is sound
    assert escaped(text) == written


def test_escaped_is_always_utf8() -> None:
    assert is_utf8(escaped(os.fsdecode(bytes(range(1, 256)))))


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), ("a", "'a'"), ("x" * 200, "'" + "x" * 76 + "...")])
def test_long_values_are_cut(value: object, text: str) -> None:
    assert shown(value) == text
    assert len(shown(value)) <= 80


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5_000, "83 min"), (7_200, "2.0 h"), (3 * 86_400, "3.0 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
