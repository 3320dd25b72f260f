"""Voxels of the bottleneck, foreground and background, with their features in several models.

A bottleneck voxel stands for a block of the image, as many voxels as its stride. It is background where the block
holds no truth, foreground where truth fills at least half of it; the blocks between, at a lesion's edge, are left out.
Where lesions are so small that hardly any block is half full, every block that holds truth is foreground.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.model import Model
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.models import batch_of_one
from mdkd_auto.report.patches import Patch, read_stored, tiles

MOST_POINTS = 1000  # of each class
FEWEST_PATCHES = 4
MOST_VOXELS = {2: 1 << 22, 3: 1 << 23}  # of all patches together, by axes of a patch: seconds on a CPU
HALF = 0.5
FEWEST_HALF_FULL = 50  # blocks; with fewer, any truth makes a block foreground
SEED = 0

Features = NDArray[np.float32]  # (voxels, channels)
Name = tuple[str, int]  # a model: column, replicate
Item = TypeVar("Item")


class Voxels(NamedTuple):
    """Bottleneck voxels drawn from the patches of a target, and their features in each model."""

    foreground: NDArray[np.bool_]  # (voxels,)
    patients: NDArray[np.int64]  # (voxels,): number of the patient
    features: dict[Name, Features]
    rule: str  # what counts as foreground, in words


def patches_with_truth(experiment: Experiment, row: Row) -> list[Patch]:
    """Patches that hold truth, of the cases that the table scores, evenly from all; limited by their voxels.

    Raises MdkdError where a stored case is gone.
    """
    size = experiment.plan.configuration(experiment.configuration).patch_size
    most = max(FEWEST_PATCHES, MOST_VOXELS[len(size)] // int(np.prod(size)))
    cases = row.masks(next(iter(row.summaries))).metric_per_case
    scored = [case.case_id for case in cases if any(one.dice is not None for one in case.metrics.values())]
    names = evenly(scored, most)
    chosen: list[Patch] = []
    for name in names:
        with_truth = [patch for patch in tiles(read_stored(experiment, row.target, name), size) if patch.truth.any()]
        chosen += evenly(with_truth, max(1, most // len(names)))
    return chosen


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly from first to last."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def sample_voxels(models: dict[Name, Model], patches: Sequence[Patch], patients: dict[str, str]) -> Voxels:
    """As many foreground as background voxels, at most 1000 of each, drawn with a fixed seed; the same in every model.

    All come from patches that hold truth, so the background is what lies around lesions. ``patients``: of the cases.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(patients[patch.case_id] for patch in patches))}
    features: dict[Name, list[Features]] = {name: [] for name in models}
    shares, counted, people = [np.zeros(0, np.float32)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
    for patch in patches:
        maps = {name: _bottleneck(model, patch) for name, model in models.items()}
        size = next(iter(maps.values())).shape[1:]
        shares.append(block_shares(patch.truth, size).ravel())
        counted.append(block_shares(patch.counted, size).ravel() == 1)
        people.append(np.full(shares[-1].size, numbers[patients[patch.case_id]]))
        for name, values in maps.items():
            features[name].append(values.reshape(len(values), -1).T)
    foreground, background, rule = label_blocks(np.concatenate(shares), np.concatenate(counted))
    number = min(len(foreground), len(background), MOST_POINTS)
    rng = np.random.default_rng(SEED)
    chosen = np.concatenate([np.sort(rng.choice(one, number, replace=False)) for one in (foreground, background)])
    return Voxels(
        foreground=np.arange(len(chosen)) < number,
        patients=np.concatenate(people)[chosen],
        features={name: np.concatenate(some)[chosen] for name, some in features.items() if some},
        rule=rule,
    )


@torch.no_grad()
def _bottleneck(model: Model, patch: Patch) -> NDArray[np.float32]:
    """(C, *S)."""
    features = model.features(batch_of_one(torch.from_numpy(patch.image), model))[-1][0]
    values: NDArray[np.float32] = features.float().cpu().numpy()
    return values


def block_shares(mask: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.float32]:
    """The share of a mask in the block of each voxel of a map of ``size`` that covers the same image."""
    pool: Callable[..., torch.Tensor] = F.adaptive_avg_pool2d if mask.ndim == 2 else F.adaptive_avg_pool3d
    shares: NDArray[np.float32] = pool(torch.from_numpy(mask.astype(np.float32))[None], tuple(size))[0].numpy()
    return shares


def label_blocks(
    shares: NDArray[np.float32], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Numbers of the foreground and of the background blocks, and the rule in words; see the top of this file.

    ``counted``: the whole block lies inside the image and is to be looked at.
    """
    foreground, rule = np.flatnonzero(counted & (shares >= HALF)), "at least half of a voxel's block"
    if len(foreground) < FEWEST_HALF_FULL:
        foreground, rule = np.flatnonzero(counted & (shares > 0)), "any part of a voxel's block"
    return foreground, np.flatnonzero(counted & (shares == 0)), rule
