"""Optional packages: a missing one is named with the line that installs it."""

import subprocess
import sys

import numpy as np
import pytest

from mdkd_auto.core import extras
from mdkd_auto.core.errors import MdkdError, MissingPackageError
from mdkd_auto.core.extras import DETECTION, Extra, require
from mdkd_auto.metrics.detection import Boxes, average_precision
from mdkd_auto.networks.rf_detr import RFDETREncoder


def test_installed_packages_pass() -> None:
    for extra in extras.EXTRAS:
        require(extra, "this test")


def test_missing_packages_are_named_with_the_remedy() -> None:
    with pytest.raises(MissingPackageError) as caught:
        require(Extra("detection", ("sys", "not_there", "nor_this")), "RF-DETR")
    assert str(caught.value) == (
        "RF-DETR needs not_there, nor_this, not installed here; run: pip install 'mdkd_auto[detection]'"
    )
    assert isinstance(caught.value, MdkdError)  # a message on the command line, no traceback


def test_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    require(Extra("detection", ("colorsys",)), "this test")
    assert "colorsys" not in sys.modules


def test_what_needs_the_packages_of_detection_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in DETECTION.modules:
        monkeypatch.setitem(sys.modules, module, None)
    box = Boxes(np.array([[0.0, 0.0, 4.0, 4.0]]), np.array([0]), np.array([1.0]))
    with pytest.raises(MissingPackageError, match=r"average precision needs faster_coco_eval, torchmetrics"):
        average_precision([box], [box])
    with pytest.raises(MissingPackageError, match=r"pip install 'mdkd_auto\[detection\]'"):
        RFDETREncoder("rfdetr_tiny", 64)


def test_a_plain_install_imports_every_command_and_the_pipeline() -> None:
    modules = [module for extra in extras.EXTRAS for module in extra.modules]
    code = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); import mdkd_auto.pipeline, mdkd_auto.__main__"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
