"""Labels of bottleneck voxels, and the number that says how well the classes lie apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.report.embedding import (
    FEWEST_HALF_FULL,
    block_shares,
    evenly,
    label_blocks,
    neighbour_accuracy,
    sample_voxels,
    tsne,
)
from mdkd_auto.report.patches import Patch, tiles

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


def clusters(distance: float, patients: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """50 voxels of each class in each patient; the classes' means lie so far apart."""
    rng = np.random.default_rng(0)
    foreground = np.arange(100 * patients) % 2 == 0
    features = rng.normal(size=(len(foreground), 8)).astype(np.float32)
    features[foreground, 0] += distance
    return features, foreground, np.arange(len(foreground)) // 100


def test_neighbours_of_separate_and_of_mixed_classes() -> None:
    assert neighbour_accuracy(*clusters(20.0)) == 1.0
    mixed = neighbour_accuracy(*clusters(0.0))
    assert mixed is not None
    assert 0.4 < mixed < 0.6


def test_neighbours_are_those_of_other_patients() -> None:
    """In each patient the classes lie apart, but elsewhere in every one, and the other way round in the next."""
    features, foreground, patients = clusters(0.0, patients=2)
    features[:, 0] += np.where(foreground == (patients == 0), 1000, -1000)
    found = neighbour_accuracy(features, foreground, patients)
    assert found is not None
    assert found < 0.05  # by its own patient it would be 1


def test_accuracy_is_balanced_and_needs_two_patients() -> None:
    features, foreground, patients = clusters(20.0)
    features[foreground] = features[~foreground].mean(0)  # neighbours: half of either class or more background
    few = foreground.copy()
    few[10:] = False
    score = neighbour_accuracy(features, few, patients)
    assert score == 0.5  # every background voxel right, no foreground one, however many there are
    assert neighbour_accuracy(features, foreground, np.zeros_like(patients)) is None
    assert neighbour_accuracy(features, np.ones_like(foreground), patients) is None


def test_scale_of_a_channel_does_not_matter() -> None:
    features, foreground, patients = clusters(3.0)
    scaled = features * np.array([1, 1000, 1, 1, 1, 1, 1, 0.001], dtype=np.float32)
    expected = neighbour_accuracy(features, foreground, patients)
    assert expected is not None
    assert neighbour_accuracy(scaled, foreground, patients) == pytest.approx(expected, abs=0.01)


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


def test_tsne_is_the_same_every_time() -> None:
    features, _, _ = clusters(10.0, patients=1)
    first, second = tsne(features), tsne(features)
    assert first.shape == (100, 2)
    assert (first == second).all()


def test_evenly() -> None:
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 4) == [1, 2]
    assert evenly([1, 2, 3], 1) == [1]
    assert evenly([], 4) == []
