"""Eq. (19) by hand, its preference for the lesion, and the teachers' shares."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mdkd_auto.report.patches import Patch
from mdkd_auto.report.segmentation.attention import (
    Listening,
    View,
    _draw_levels,
    _draw_listening,
    attention_map,
    enlarged,
    listening_of,
    preference,
)


def test_attention_map_by_hand() -> None:
    features = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [2.0, -2.0]]]])  # (1, 2, 2, 2)
    expected = torch.tensor([[1.0, 0.0], [4.0, 8.0]]) / 9  # 81 = 1 + 16 + 64
    torch.testing.assert_close(attention_map(features)[0], expected)
    torch.testing.assert_close(attention_map(10 * features), attention_map(features))


def test_attention_map_is_normalised_image_by_image() -> None:
    maps = attention_map(torch.randn(3, 4, 2, 3, 5))
    assert maps.shape == (3, 2, 3, 5)
    torch.testing.assert_close(maps.flatten(1).norm(dim=1), torch.ones(3))
    assert attention_map(torch.zeros(1, 4, 2, 2)).tolist() == [[[0, 0], [0, 0]]]


def patch_of(truth: np.ndarray, counted: np.ndarray | None = None) -> Patch:
    image = np.arange(truth.size, dtype=np.float32).reshape(truth.shape)
    return Patch("case", image, truth, np.ones_like(truth) if counted is None else counted)


def test_preference() -> None:
    attention = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    truth = np.array([[True, False], [False, False]])
    assert preference(attention, patch_of(truth)) == pytest.approx(3.0)
    assert preference(attention, patch_of(~truth)) == pytest.approx(1 / 3)
    assert preference(torch.ones(2, 2), patch_of(np.ones((8, 8), dtype=bool))) == pytest.approx(1.0)
    assert preference(attention, patch_of(np.zeros((2, 2), dtype=bool))) is None
    assert preference(torch.zeros(2, 2), patch_of(truth)) is None


def test_what_lies_outside_the_image_has_no_part_in_the_mean() -> None:
    attention = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    truth = np.array([[True, False], [False, False]])
    inside = np.array([[True, True], [False, False]])
    assert preference(attention, patch_of(truth, inside)) == pytest.approx(1.5)


def test_the_view_is_upright_and_inside_the_image() -> None:
    counted = np.zeros((2, 3, 3), dtype=bool)
    counted[1, 1:, :2] = True
    patch = patch_of(np.zeros_like(counted), counted)
    assert View(patch, 1, 1).shown(patch.image).tolist() == [[12, 13], [15, 16]]
    assert View(patch, 1, -1).shown(patch.image).tolist() == [[15, 16], [12, 13]]


def test_maps_are_enlarged_to_the_patch() -> None:
    assert enlarged(torch.ones(2, 2), (8, 6)).shape == (8, 6)
    assert enlarged(torch.ones(1, 2, 2), (4, 8, 6)).tolist() == np.ones((4, 8, 6)).tolist()


@pytest.mark.parametrize(
    ("depths", "bottlenecks", "shallower"),
    [((6, 5, 6), (32, 16, 32), (8, 8, 8)), ((5, 6, 5), (16, 32, 16), (4, 4, 4)), ((6, 3, 2), (32, 4, 2), (8, 4, 2))],
)
def test_networks_of_several_depths_show_their_own_bottleneck(
    depths: tuple[int, ...], bottlenecks: tuple[int, ...], shallower: tuple[int, ...]
) -> None:
    """Each map holds its own stride, so that the number in the panel says which level it is of."""
    columns = ("data-set-specific", "joint teacher", "student")
    maps = {
        column: [torch.full((64 >> level, 64 >> level), float(1 << level)) for level in range(depth)]
        for column, depth in zip(columns, depths, strict=True)
    }
    figure = Figure()
    _draw_levels(figure.subfigures(), View(patch_of(np.zeros((64, 64), dtype=bool)), 0, 1), maps)
    panels = figure.subfigs[0].axes
    for line, strides in ((panels[1:4], bottlenecks), (panels[5:8], shallower)):
        for axes, column, depth, stride in zip(line, columns, depths, strides, strict=True):
            level = stride.bit_length()
            word = "bottleneck" if level == depth else f"level {level} of {depth}"
            assert axes.get_title().startswith(f"{column}, {word}\n")
            assert np.asarray(axes.images[1].get_array()).max() == stride


def test_listening() -> None:
    shares = {
        0: torch.tensor([0.2, 0.8])[None, :, None, None].expand(1, 2, 4, 4),
        2: torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]]]),
    }
    found = listening_of(shares, ("Dataset011_A", "Dataset012_B"))
    assert found is not None
    assert found.teachers == ("011", "012")
    assert found.level == 2
    assert found.by_level[2] == [0.75, 0.25]
    assert found.by_level[0] == pytest.approx([0.2, 0.8])
    assert found.maps.shape == (2, 1, 2)
    assert listening_of({}, ("Dataset011_A",)) is None


@pytest.mark.parametrize(
    ("shares", "at_chance", "verdict"),
    [
        ({3: [0.52, 0.48], 4: [0.46, 0.54]}, [3, 4], "no more than chance (50 % each) at any level"),
        ({3: [0.52, 0.48], 4: [0.44, 0.56]}, [3], "not chance (50 % each) at level 5 alone"),
        (
            {0: [0.36, 0.31, 0.33], 1: [0.2, 0.3, 0.5], 2: [0.2, 0.4, 0.4]},
            [0],
            "not chance (33 % each) at levels 2, 3 alone",
        ),
        ({0: [0.1, 0.9]}, [], "not chance (50 % each) at any level"),
    ],
)
def test_shares_that_are_no_more_than_chance_are_called_so(
    shares: dict[int, list[float]], at_chance: list[int], verdict: str
) -> None:
    teachers = ("011", "012", "013")[: len(next(iter(shares.values())))]
    listening = Listening(teachers, max(shares), torch.zeros(len(teachers), 4, 4), shares)
    assert [level for level in shares if listening.is_chance(level)] == at_chance
    assert listening.verdict == verdict
    figure = Figure()
    _draw_listening(figure.subfigures(), View(patch_of(np.zeros((4, 4), dtype=bool)), 0, 1), listening)
    *maps, bars = figure.subfigs[0].axes
    assert bars.get_title().endswith(verdict)
    assert all(axes.get_title().endswith(f"chance {100 / len(teachers):.0f} %") for axes in maps)
