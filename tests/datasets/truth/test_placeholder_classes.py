"""Which names of classes are no objects."""

import pytest

from mdkd_auto.datasets.truth.placeholder_classes import is_background, is_no_object


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "__background__", "BG", "back ground"])
def test_backgrounds(name: str) -> None:
    assert is_background(name)
    assert is_no_object(name)


@pytest.mark.parametrize(
    "name",
    [
        "N/A",
        "n.a.",
        "none",
        "NONE",
        "null",
        "NaN",
        "No finding",
        "no_findings",
        "ignore",
        "ignored regions",
        "DontCare",
        "no-object",
    ],
)
def test_no_objects(name: str) -> None:
    assert is_no_object(name)
    assert not is_background(name)


@pytest.mark.parametrize("name", ["nodule", "normal", "other", "nonenhancing tumour", "nail", "0", "病变", ""])
def test_objects(name: str) -> None:
    assert not is_no_object(name)
