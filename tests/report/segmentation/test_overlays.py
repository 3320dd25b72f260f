"""Which cases are shown, and what part of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.records import Case
from mdkd_auto.metrics.summary import Scores, score_masks
from mdkd_auto.report.segmentation.overlays import _read_slice, chosen_cases, edges_of, median_case, view_of
from mdkd_auto.tasks.segmentation.scoring import CaseScores, Summary, summary_of
from mdkd_auto.tasks.shared.scored_part import TEST


def scores_of(dice: float | None) -> Scores:
    """Of two squares of 4 x 4 pixels that overlap so much; None: both empty."""
    truth, mask = np.zeros((12, 12), dtype=bool), np.zeros((12, 12), dtype=bool)
    if dice is not None:
        shift = round(4 * (1 - dice))
        truth[4:8, 4:8] = True
        mask[4:8, 4 + shift : 8 + shift] = True
    return score_masks(mask, truth, (1.0, 1.0))


def summary(**dice: float | None) -> Summary:
    cases = [Case(case_id=name, images=(), patient_id=name) for name in dice]
    scores = [CaseScores(case_id=name, metrics={"foreground": scores_of(value)}) for name, value in dice.items()]
    return summary_of(scores, cases, "Dataset011_Toy", TEST, "mm", {})


def test_worst_median_and_best() -> None:
    assert chosen_cases(summary(a=1.0, b=0.25, c=0.5, d=None)) == {"worst": "b", "median": "c", "best": "a"}
    assert chosen_cases(summary(a=1.0, b=0.25, c=0.75, d=0.5)) == {"worst": "b", "median": "c", "best": "a"}
    assert chosen_cases(summary(c=0.5, b=0.5, a=0.5)) == {"worst": "a", "median": "b", "best": "c"}


def test_cases_without_a_lesion_are_not_chosen_beside_others() -> None:
    false_alarm = score_masks(np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool), (1.0, 1.0))
    assert false_alarm.dice == 0
    found = summary(a=1.0, b=0.25)
    empty = CaseScores(case_id="0", metrics={"foreground": false_alarm})
    both = msgspec.structs.replace(found, metric_per_case=(empty, *found.metric_per_case))
    assert chosen_cases(both) == {"worst": "b", "best": "a"}
    assert chosen_cases(msgspec.structs.replace(found, metric_per_case=(empty,))) == {"only": "0"}


def test_few_cases() -> None:
    assert chosen_cases(summary(a=1.0, b=0.25)) == {"worst": "b", "best": "a"}
    assert chosen_cases(summary(a=0.5, b=None)) == {"only": "a"}
    assert chosen_cases(summary(a=None)) == {}


def test_median_case() -> None:
    assert median_case(summary(a=1.0, b=0.25, c=0.5, d=None)) == "c"
    assert median_case(summary(a=1.0, b=0.25)) == "a"
    assert median_case(summary(a=0.0)) == "a"
    assert median_case(summary(a=None)) is None


@pytest.mark.parametrize(("row", "expected"), [(150, slice(100, 200)), (2, slice(0, 100)), (299, slice(200, 300))])
def test_view_is_a_third_of_the_image_around_a_small_lesion(row: int, expected: slice) -> None:
    mask = np.zeros((300, 300), dtype=bool)
    mask[row, 150] = True
    assert view_of(mask) == (expected, slice(100, 200))


def test_view_of_a_large_lesion_and_of_none() -> None:
    mask = np.zeros((100, 100), dtype=bool)
    assert view_of(mask) == (slice(0, 100), slice(0, 100))
    mask[10:91, 50] = True
    assert view_of(mask) == (slice(0, 100), slice(4, 94))  # two thirds as wide as the lesion with its margin is high


@pytest.mark.parametrize(("ending", "top_first"), [(".PNG", True), (".png", True), (".TIF", True), (".nii.gz", False)])
def test_pictures_are_drawn_with_their_top_row_first(tmp_path: Path, ending: str, top_first: bool) -> None:
    """Whatever the case of the ending; volumes are stored with the posterior row first, which is drawn last."""
    pixels = np.arange(20 * 24, dtype=np.uint8).reshape(20, 24)
    mask = np.zeros_like(pixels)
    mask[2:5, 3:9] = 1
    names = {"image": pixels, "label": mask, f"results/run/test/a{ending.lower()}": mask}
    (tmp_path / "results/run/test").mkdir(parents=True)
    for name, array in names.items():
        path = tmp_path / (name if name.endswith(ending.lower()) else f"{name}{ending}")
        if ending == ".nii.gz":
            nibabel.save(nibabel.Nifti1Image(array.T[..., None], np.eye(4)), path)
        else:
            Pillow.fromarray(array).save(path)
    case = Case(
        case_id="a", images=(str(tmp_path / f"image{ending}"),), label=str(tmp_path / f"label{ending}"), patient_id="a"
    )
    dataset = SimpleNamespace(cases=(case,), spacing_mm=None, file_ending=ending)
    experiment: Any = SimpleNamespace(
        datasets={"toy": dataset},
        plan=SimpleNamespace(dataset=lambda _: SimpleNamespace(channel=0)),
        classes=lambda _: SimpleNamespace(channels=[SimpleNamespace(values=(1,))]),
        root=SimpleNamespace(results=tmp_path / "results"),
    )
    row: Any = SimpleNamespace(target="toy", part="test", folders={"student": ["run"]})
    shown = _read_slice(experiment, row, "a", ["student"])
    step = 1 if top_first else -1
    np.testing.assert_array_equal(shown.image, pixels[::step])
    np.testing.assert_array_equal(shown.truth, mask[::step])
    np.testing.assert_array_equal(shown.masks["student"], mask[::step])


def test_edges_run_half_a_pixel_outside_the_foreground() -> None:
    """Around each object, closed also where it touches the picture's edge."""
    mask = np.zeros((6, 8), dtype=bool)
    mask[0:2, 0:3] = mask[4, 6] = True
    large, small = sorted(edges_of(mask), key=len, reverse=True)
    assert (large.min(0).tolist(), large.max(0).tolist()) == ([-0.5, -0.5], [1.5, 2.5])
    assert (small.min(0).tolist(), small.max(0).tolist()) == ([3.5, 5.5], [4.5, 6.5])
    assert all((edge[0] == edge[-1]).all() for edge in (large, small))
    assert edges_of(np.zeros((4, 4), dtype=bool)) == []
