"""The picture's coordinates are the same every time."""

import numpy as np
import pytest

from mdkd_auto.report.segmentation.embedding import tsne

pytestmark = pytest.mark.usefixtures("one_thread")


def test_tsne_is_the_same_every_time() -> None:
    features = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    features[::2, 0] += 10
    first, second = tsne(features), tsne(features)
    assert first.shape == (100, 2)
    assert (first == second).all()
    centres = first[::2].mean(0), first[1::2].mean(0)
    spread = max(first[::2].std(), first[1::2].std())
    assert np.linalg.norm(centres[0] - centres[1]) > spread
