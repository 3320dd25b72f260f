"""Fit patch and batch to memory: shrink the patch until the estimate fits, then enlarge the batch."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Reason, Topology
from mdkd_auto.planners.topology import initial_patch, pad_to_multiple, plan_topology, total_stride

REFERENCE_GB = 8.0
REFERENCE_ELEMENTS = {2: 85e6, 3: 560e6}  # feature-map elements of one sample that fit at the reference batch
REFERENCE_BATCH = {2: 12, 3: 2}
MIN_BATCH = {2: 4, 3: 2}  # 2-D: the contrastive loss (equation 11) needs 3 samples
MAX_BATCH = 16  # slices, as in the paper
MOST_PADDING = 2.0  # a requested patch beyond this multiple of the image size is reported as padding
MAX_SHARE_OF_DATASET = 0.05  # fraction of the voxels of the group's median data set in one batch


class Fit(NamedTuple):
    """A patch, its network and its cost."""

    patch_size: tuple[int, ...]
    topology: Topology
    elements: float


def feature_map_elements(patch_size: Sequence[int], topology: Topology) -> float:
    """Elements of all feature maps a UNet keeps for the backward pass of one sample."""
    size = list(patch_size)
    total = 0.0
    for stage, (features, stride) in enumerate(zip(topology.features, topology.strides, strict=True)):
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        maps = topology.convolutions_per_stage  # encoder
        if stage < len(topology.features) - 1:
            maps += topology.convolutions_per_stage + 1  # decoder: the upsampled map and its convolutions
        total += maps * features * math.prod(size)
    return total


def memory_needed_gb(elements: float, axes: int) -> float:
    """Memory for a batch with this total of feature-map elements, on the same reference."""
    return REFERENCE_GB * elements / (REFERENCE_ELEMENTS[axes] * REFERENCE_BATCH[axes])


def fit_patch(spacing_mm: Sequence[float], median_shape: Sequence[float], memory_gb: float) -> tuple[Fit, Reason]:
    """Return the largest patch of the given aspect ratio whose feature maps fit. Raises PlanError if none fits."""
    axes = len(spacing_mm)
    budget = REFERENCE_ELEMENTS[axes] * memory_gb / REFERENCE_GB
    patch = initial_patch(spacing_mm, median_shape)
    wanted = patch
    while True:
        topology = plan_topology(patch, spacing_mm)
        steps = total_stride(topology)
        padded = pad_to_multiple(patch, steps)
        elements = feature_map_elements(padded, topology)
        if elements <= budget:
            break
        sizes = zip(padded, median_shape, steps, strict=True)
        ratios = [edge / limit if edge > step else 0.0 for edge, limit, step in sizes]
        if max(ratios) == 0.0:
            raise PlanError(f"memory_gb = {memory_gb:g} is too little for any patch; give at least 1")
        widest = ratios.index(max(ratios))
        patch = tuple(edge - steps[axis] if axis == widest else edge for axis, edge in enumerate(padded))
    shown = text_voxels(median_shape)
    because = f"median shape at this spacing {shown}; padded to multiples of {text_voxels(steps)}"
    if any(edge < want for edge, want in zip(padded, wanted, strict=True)):
        because += f"; {text_voxels(wanted)} would not fit {memory_gb:g} GB"
    return Fit(padded, topology, elements), Reason(decision="patch", value=text_voxels(padded), because=because)


def asked_patch(
    configuration: str,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    memory_gb: float,
) -> tuple[Fit, Reason]:
    """Return the user's patch, padded to a multiple of the total stride.

    Raises PlanError if it is too small for a network, or if the minimum batch does not fit.
    """
    axes = len(spacing_mm)
    topology = plan_topology(patch_size, spacing_mm)
    if len(topology.strides) < 2:
        raise PlanError(
            f"{configuration}: a patch of {text_voxels(patch_size)} voxels is too small for a network; ask with "
            "--patch-size for 8 or more along an axis"
        )
    steps = total_stride(topology)
    padded = pad_to_multiple(patch_size, steps)
    elements = feature_map_elements(padded, topology)
    needed_gb = memory_needed_gb(MIN_BATCH[axes] * elements, axes)
    if needed_gb > memory_gb:
        raise PlanError(
            f"{configuration}: a patch of {text_voxels(padded)} voxels needs about {needed_gb:.1f} GB in batches of "
            f"{MIN_BATCH[axes]}, the least; the plan is for {memory_gb:g} GB. Ask for a smaller --patch-size (one "
            "number, or three: z y x; 2-D takes the last two), or a larger --memory-gb"
        )
    shown = text_voxels(median_shape)
    because = f"{text_voxels(patch_size)} asked for; padded to multiples of {text_voxels(steps)}"
    because += f"; median shape at this spacing {shown}"
    if any(edge > MOST_PADDING * limit for edge, limit in zip(padded, median_shape, strict=True)):
        because += ": most of a patch will be padding; three numbers (z y x) ask for less along an axis"
    return Fit(padded, topology, elements), Reason(decision="patch", value=text_voxels(padded), because=because)


def choose_batch(fit: Fit, voxels: dict[str, float], memory_gb: float) -> tuple[int, Reason]:
    """Choose the largest batch that fits into the remaining memory, within limits. ``voxels``: total per data set."""
    axes = len(fit.patch_size)
    budget = REFERENCE_ELEMENTS[axes] * memory_gb / REFERENCE_GB
    share = MAX_SHARE_OF_DATASET * median(voxels.values()) / math.prod(fit.patch_size)
    limits = {
        f"what fits {memory_gb:g} GB": math.floor(REFERENCE_BATCH[axes] * budget / fit.elements),
        "5 % of the voxels of a data set (the median of the group)": math.floor(share),
        "the batch of the paper": MAX_BATCH,
    }
    because = min(limits, key=lambda rule: limits[rule])
    batch = limits[because]
    if batch < MIN_BATCH[axes]:
        batch, because = MIN_BATCH[axes], f"the least allowed; the tightest limit, {because}, would give {batch}"
    return batch, Reason(decision="batch", value=str(batch), because=because)


def text_voxels(shape: Sequence[float]) -> str:
    """Format a shape, e.g. 256 x 256."""
    return " x ".join(f"{value:g}" for value in shape)
