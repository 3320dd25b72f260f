"""Eq. (19) by hand, its preference for the lesion, and the teachers' shares."""

import numpy as np
import pytest
import torch

from mdkd_auto.report.attention import View, attention_map, enlarged, listening_of, preference
from mdkd_auto.report.patches import Patch


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


def test_listening() -> None:
    shares = {0: torch.tensor([0.2, 0.8])[None, :, None, None].expand(1, 2, 4, 4),
              2: torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]]])}  # fmt: skip
    found = listening_of(shares, ("Dataset011_A", "Dataset012_B"))
    assert found is not None
    assert found.teachers == ("011", "012")
    assert found.level == 2
    assert found.by_level[2] == [0.75, 0.25]
    assert found.by_level[0] == pytest.approx([0.2, 0.8])
    assert found.maps.shape == (2, 1, 2)
    assert listening_of({}, ("Dataset011_A",)) is None
