"""What a run.json says of its own training, held against what it would compute: a received file is not believed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import to_json_text
from mdkd_auto.core.limits import MOST_WEIGHTS, SPACING_MM, Fault, encoder_weights, numbers
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan
from mdkd_auto.core.text import shown
from mdkd_auto.formats.size_guard import BYTES_A_VOXEL, MOST_GROWTH
from mdkd_auto.planners.ranges import Range, TrainingRanges
from mdkd_auto.preprocessing.crop import permute
from mdkd_auto.tasks.segmentation.training import NETWORKS

FARTHEST = 32.0  # times finer than the finest training image, or coarser than the coarsest, along an axis
LONGEST_IMAGE = 1_000_000  # voxels along an axis
LARGEST_GREY_VALUE = 1e30
MAPS_AT_ONCE = 3  # of the first stage, while one patch is predicted: skipped, into a convolution and out of it
FEATURES = 32  # of a first stage, at least, where the network is not the plan's
GB = 1e9
ABSENT = object()


def faults_of_ranges(ranges: TrainingRanges, where: str) -> Iterator[Fault]:
    """Of what the training images of a data set span."""
    edges: list[tuple[str, tuple[Sequence[float], Sequence[float]], tuple[float, float]]] = []
    if ranges.spacing_mm is not None:
        edges.append(("spacing_mm", ranges.spacing_mm, SPACING_MM))
    edges.append(("shape", ranges.shape, (1, LONGEST_IMAGE)))
    for name in ("percentile_00_5", "percentile_99_5"):
        lower, upper = getattr(ranges, name)
        edges.append((name, ((lower,), (upper,)), (-LARGEST_GREY_VALUE, LARGEST_GREY_VALUE)))
    for name, (lowest, highest), limits in edges:
        faults = [
            *numbers(f"{where}{name}, the minimum,", lowest, len(lowest), *limits),
            *numbers(f"{where}{name}, the maximum,", highest, len(highest), *limits),
        ]
        yield from faults
        if not faults and any(low > high for low, high in zip(lowest, highest, strict=True)):
            yield Fault(f"{where}{name}", (lowest, highest), "a minimum and a maximum that is no smaller")
    low, high = ranges.percentile_00_5, ranges.percentile_99_5
    if low.lower > high.lower or low.upper > high.upper:
        yield Fault(f"{where}percentile_00_5", tuple(low), f"at most percentile_99_5, {tuple(high)}")


def faults_of_spacing(plan: ConfigurationPlan, part: DatasetPlan, ranges: TrainingRanges | None) -> Iterator[Fault]:
    """A target spacing or a patch far from the training images of a data set; both are sound by themselves."""
    if plan.whole_images:
        if set(plan.spacing_mm) != {1.0}:
            yield Fault("plan.spacing_mm", plan.spacing_mm, "1 along each axis: whole images are resized to the patch")
        return
    if ranges is None or ranges.spacing_mm is None:
        return
    axes = len(plan.spacing_mm)
    finest, coarsest = (permute(edge, part.transpose) for edge in ranges.spacing_mm)
    smallest, largest = (permute(edge, part.transpose) for edge in ranges.shape)
    target = (*finest[: 3 - axes], *plan.spacing_mm)  # 2-D: each slice keeps its own z
    limits = [Range(low / FARTHEST, high * FARTHEST) for low, high in zip(finest, coarsest, strict=True)][-axes:]
    if not all(low <= value <= high for value, (low, high) in zip(plan.spacing_mm, limits, strict=True)):
        allowed = " and ".join(f"{low:.3g} to {high:.3g}" for low, high in limits)
        words = f"{allowed}, within {FARTHEST:g} times the training images of {part.dataset} (ranges)"
        yield Fault("plan.spacing_mm", plan.spacing_mm, words)
        return
    growth = math.prod(fine / step for fine, step in zip(finest, target, strict=True))
    if growth > MOST_GROWTH:
        words = f"one that makes the training images of {part.dataset} (ranges) at most {MOST_GROWTH} times as large"
        yield Fault("plan.spacing_mm", plan.spacing_mm, f"{words}, not {growth:.3g} times")
        return
    least = math.prod(size * fine / step for size, fine, step in zip(smallest, finest, target, strict=True))
    if BYTES_A_VOXEL * least > psutil.virtual_memory().total:
        words = f"one at which the smallest training image of {part.dataset} (ranges) fits this machine's memory"
        yield Fault("plan.spacing_mm", plan.spacing_mm, f"{words}; it takes {BYTES_A_VOXEL * least / GB:.3g} GB")
    most = [max(1.0, size * wide / step) for size, wide, step in zip(largest, coarsest, target, strict=True)][-axes:]
    strides = (math.prod(axis) for axis in zip(*plan.topology.strides, strict=True))
    room = math.prod(max(size, 2 * step) for size, step in zip(most, strides, strict=True))
    if math.prod(plan.patch_size) > MOST_GROWTH * room:
        words = f"at most {MOST_GROWTH} times the voxels of the largest training image of {part.dataset} (ranges)"
        yield Fault("plan.patch_size", plan.patch_size, words)


def faults_of_network(plan: ConfigurationPlan, architecture: str, width: int | None, field: str) -> Iterator[Fault]:
    """A network, or its maps of one patch, larger than any machine or this one holds; the plan is sound by itself."""
    features = FEATURES
    if architecture in NETWORKS:
        try:
            topology = NETWORKS[architecture].topology(plan.topology, width)
        except MdkdError as error:
            yield Fault(field, width, f"a width that the network can have: {error}")
            return
        features = topology.features[0]
        if (weights := encoder_weights(topology)) > MOST_WEIGHTS:
            yield Fault(field, width, f"a network of {MOST_WEIGHTS:,} weights at most, not {weights:,}")
    needed = 4 * MAPS_AT_ONCE * features * math.prod(plan.patch_size)
    if needed > psutil.virtual_memory().total:
        words = f"one of which {features} feature maps fit this machine's memory; they take {needed / GB:.3g} GB"
        yield Fault("plan.patch_size", plan.patch_size, words)


def faults_of_identity(
    identity: Mapping[str, Any], parts: Mapping[str, tuple[Sequence[str], object]]
) -> Iterator[Fault]:
    """Fields that differ from job.identity, which says what the job was made from.

    ``parts``: the run's field -> the keys to its copy in ``identity``, and its value. What the copy lacks is not
    compared.
    """
    for field, (keys, value) in parts.items():
        known: Any = identity
        for key in keys:
            known = known.get(key, ABSENT) if isinstance(known, Mapping) else ABSENT
        if known is not ABSENT:
            yield from _differences(field, json.loads(to_json_text(value)), known)  # lists, as in the file


def _differences(field: str, found: Any, known: Any) -> Iterator[Fault]:
    if isinstance(known, Mapping) and isinstance(found, Mapping):
        # A plan is written without its defaults, on both sides; a field that only one side has may be newer elsewhere.
        names = {**known, **found} if field == "plan" else [name for name in known if name in found]
        for name in names:
            yield from _differences(f"{field}.{name}", found.get(name), known.get(name))
    elif known != found:
        yield Fault(field, found, f"{shown(known)}, as job.identity says")
