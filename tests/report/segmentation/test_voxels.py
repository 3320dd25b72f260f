"""Which bottleneck voxels are foreground, which are background, and which are drawn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.report.patches import Patch, tiles
from mdkd_auto.report.segmentation.voxels import FEWEST_HALF_FULL, block_shares, evenly, label_blocks, sample_voxels

pytestmark = pytest.mark.usefixtures("one_thread")


class PoolingEncoder(Encoder):
    """Two levels; the bottleneck is the image, averaged over blocks of 4 x 4, times a factor."""

    channels, strides, kernel_sizes = (1, 1), ((1, 1), (4, 4)), ((3, 3), (3, 3))

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.factor * F.avg_pool2d(x, 4)]


def test_share_of_truth_in_a_block() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4, :4] = True
    mask[4:, 4:6] = True
    mask[7, 0] = True
    assert block_shares(mask, (2, 2)).tolist() == [[1, 0], [1 / 16, 0.5]]
    volume = np.stack([mask, np.zeros_like(mask)])
    assert block_shares(volume, (1, 2, 2)).tolist() == [[[0.5, 0], [1 / 32, 0.25]]]


def test_majority_makes_foreground_where_lesions_are_large() -> None:
    shares = np.array([1.0, 0.5, 0.49, 0.0, 0.0, 1.0] + [1.0] * FEWEST_HALF_FULL, dtype=np.float32)
    counted = np.array([True, True, True, True, False, False] + [True] * FEWEST_HALF_FULL)
    foreground, background, rule = label_blocks(shares, counted)
    assert foreground.tolist()[:2] == [0, 1]
    assert len(foreground) == 2 + FEWEST_HALF_FULL
    assert background.tolist() == [3]
    assert rule.startswith("at least half")


def test_any_truth_makes_foreground_where_lesions_are_small() -> None:
    shares = np.array([1.0, 0.5, 0.01, 0.0], dtype=np.float32)
    foreground, background, rule = label_blocks(shares, np.ones(4, dtype=bool))
    assert (foreground.tolist(), background.tolist()) == ([0, 1, 2], [3])
    assert rule.startswith("any")


def patches() -> list[Patch]:
    """Two patients, bright squares that are the truth."""
    made = []
    for name in ("a", "b"):
        image, truth = np.zeros((1, 32, 32), dtype=np.float32), np.zeros((1, 32, 32), dtype=bool)
        truth[0, 8:16, 8:16] = True
        image[truth] = 1
        made += list(tiles(Patch(name, image, truth, np.ones_like(truth)), (32, 32)))
    return made


def test_sampled_voxels() -> None:
    models = {(name, 0): Model(PoolingEncoder(factor), nn.Identity()) for name, factor in (("one", 1.0), ("two", 2.0))}
    voxels = sample_voxels(models, patches(), {"a": "first", "b": "second"})
    assert voxels.foreground.tolist() == [True] * 8 + [False] * 8  # 2 x 2 blocks in each of two patients
    assert voxels.patients[:8].tolist() == [0] * 4 + [1] * 4
    assert voxels.features["one", 0].ravel().tolist() == [1.0] * 8 + [0.0] * 8
    assert (voxels.features["two", 0] == 2 * voxels.features["one", 0]).all()  # the same voxels in the same order
    same_patient = sample_voxels(models, patches(), {"a": "first", "b": "first"})
    assert set(same_patient.patients.tolist()) == {0}
    assert len(sample_voxels(models, [], {}).foreground) == 0


def test_evenly() -> None:
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 4) == [1, 2]
    assert evenly([1, 2, 3], 1) == [1]
    assert evenly([], 4) == []
