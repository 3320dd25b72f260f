"""What numbers of a plan that was read from a file must be: a received file is not believed, and nothing is built of it
before. Limits are far from what planners decide; they keep out what makes no sense, or no machine can hold."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mdkd_auto.core.errors import MdkdError, PlanError
from mdkd_auto.core.files import ReadError, read_record
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Plan, Topology
from mdkd_auto.core.text import shown

AXES = {"2d": 2, "3d_fullres": 3}
SPACING_MM = (1e-5, 1e4)  # from optical microscopes to images of one pixel that span a body
MOST_VOXELS_OF_PATCH = 1 << 26
MOST_VOXELS_OF_WHOLE = 1 << 24  # 4096 x 4096, 256 x 256 x 256: attention grows with the square of them
LONGEST_SIDE = 1 << 15
MOST_IN_BATCH = 1 << 14
MOST_STAGES, MOST_CONVOLUTIONS = 12, 16  # the latter of a stage
MOST_FEATURES, MOST_WEIGHTS = 1 << 13, 2_000_000_000
LARGEST_KERNEL, LARGEST_STRIDE = 15, 16
MOST_ANCHORS, ANCHOR_SIZE, ANCHOR_RATIO, MOST_QUERIES = 64, (1e-3, 1e5), (1e-3, 1e3), 10_000
LARGEST_INTENSITY = 1e12
FAULTS_SHOWN = 5


class Fault(NamedTuple):
    """A field that makes no sense."""

    field: str
    found: object
    expected: str

    def __str__(self) -> str:
        return f"{self.field} is {shown(self.found)}; expected {self.expected}"


def refuse(path: Path, faults: Iterable[Fault], error: type[MdkdError], remedy: str) -> None:
    """Raise ``error`` where there is a fault, naming the first ones."""
    found = list(faults)
    if found:
        more = f"; and {len(found) - FAULTS_SHOWN} more" if len(found) > FAULTS_SHOWN else ""
        raise error(f"{path}: {'; '.join(map(str, found[:FAULTS_SHOWN]))}{more}. {remedy}")


def read_plan(path: Path) -> Plan:
    """Read plan.json. Raises PlanError for one that is damaged or makes no sense, saying what to do."""
    remedy = (
        "Restore it from a copy; or delete it and run mdkd_plan_and_preprocess: it plans again, and what was "
        "trained by another plan no longer matches"
    )
    try:
        plan = read_record(path, Plan, PlanError)
    except ReadError:
        raise
    except MdkdError as error:
        raise PlanError(f"{error}. {remedy}") from None
    refuse(path, faults_of_plan(plan), PlanError, remedy)
    return plan


def faults_of_plan(plan: Plan) -> Iterator[Fault]:
    """Of a whole group."""
    yield from number("memory_gb", plan.memory_gb, 1e-6, 1e6)
    names = [part.dataset for part in plan.datasets]
    if not names or len(set(names)) < len(names):
        yield Fault("datasets", names, "each data set once")
    if not plan.configurations:
        yield Fault("configurations", [], "one or more")
    for place, dataset in enumerate(plan.datasets):
        yield from faults_of_dataset(dataset, f"datasets[{place}].")
    for place, part in enumerate(plan.configurations):
        yield from faults_of_configuration(part, f"configurations[{place}].")
        if not set(part.datasets) <= set(names):
            yield Fault(f"configurations[{place}].datasets", list(part.datasets), f"some of {', '.join(names)}")


def faults_of_dataset(plan: DatasetPlan, where: str = "") -> Iterator[Fault]:
    """Of what a plan decides for one data set."""
    yield from number(f"{where}channel", plan.channel, 0, 9999)
    if sorted(plan.transpose) != [0, 1, 2]:
        yield Fault(f"{where}transpose", plan.transpose, "0, 1 and 2 in some order")
    if plan.assumed_spacing_mm is not None:
        yield from numbers(f"{where}assumed_spacing_mm", plan.assumed_spacing_mm, 3, *SPACING_MM)
    scale = plan.normalisation
    for name in ("lower", "upper", "mean"):
        yield from number(f"{where}normalisation.{name}", getattr(scale, name), -LARGEST_INTENSITY, LARGEST_INTENSITY)
    yield from number(f"{where}normalisation.std", scale.std, 0, LARGEST_INTENSITY)
    if scale.lower > scale.upper:
        yield Fault(f"{where}normalisation.lower", scale.lower, f"at most upper, {scale.upper:g}")


def faults_of_configuration(plan: ConfigurationPlan, where: str = "") -> Iterator[Fault]:
    """Of one configuration."""
    axes = AXES[plan.configuration]
    if not plan.datasets:
        yield Fault(f"{where}datasets", [], "one or more")
    yield from numbers(f"{where}spacing_mm", plan.spacing_mm, axes, *SPACING_MM)
    yield from numbers(f"{where}patch_size", plan.patch_size, axes, 1, LONGEST_SIDE)
    if len(plan.patch_size) == axes and math.prod(plan.patch_size) > MOST_VOXELS_OF_PATCH:
        yield Fault(f"{where}patch_size", plan.patch_size, f"at most {MOST_VOXELS_OF_PATCH} voxels in all")
    yield from number(f"{where}batch_size", plan.batch_size, 1, MOST_IN_BATCH)
    faults = list(_faults_of_topology(plan.topology, axes, f"{where}topology."))
    yield from faults or _faults_of_fit(plan, axes, where)
    for name, values, limits in (
        ("anchor_sizes", plan.anchor_sizes, ANCHOR_SIZE),
        ("anchor_ratios", plan.anchor_ratios, ANCHOR_RATIO),
    ):
        yield from numbers(f"{where}{name}", values[:MOST_ANCHORS], len(values), *limits)
    yield from number(f"{where}queries", plan.queries, 0, MOST_QUERIES)
    if plan.whole_images and math.prod(plan.patch_size) > MOST_VOXELS_OF_WHOLE:
        yield Fault(f"{where}patch_size", plan.patch_size, f"at most {MOST_VOXELS_OF_WHOLE} voxels for whole images")


def _faults_of_topology(topology: Topology, axes: int, where: str) -> Iterator[Fault]:
    stages = len(topology.features)
    yield from number(f"{where}features, their number,", stages, 1, MOST_STAGES)
    yield from number(f"{where}convolutions_per_stage", topology.convolutions_per_stage, 1, MOST_CONVOLUTIONS)
    yield from numbers(f"{where}features", topology.features, stages, 1, MOST_FEATURES)
    sound = stages <= MOST_STAGES
    for name, entries, most in (
        ("kernel_sizes", topology.kernel_sizes, LARGEST_KERNEL),
        ("strides", topology.strides, LARGEST_STRIDE),
    ):
        if len(entries) != stages:
            yield Fault(f"{where}{name}, their number,", len(entries), f"{stages}, as many as features")
            sound = False
        for place, entry in enumerate(entries[:MOST_STAGES]):
            faults = list(numbers(f"{where}{name}[{place}]", entry, axes, 1, most))
            yield from faults
            sound = sound and not faults
    if sound and (weights := encoder_weights(topology)) > MOST_WEIGHTS:
        yield Fault(
            f"{where}features", topology.features, f"a network of {MOST_WEIGHTS:,} weights at most, not {weights:,}"
        )


def _faults_of_fit(plan: ConfigurationPlan, axes: int, where: str) -> Iterator[Fault]:
    """Of a patch whose network, sound by itself, cannot halve it so often."""
    if len(plan.patch_size) != axes:
        return
    if set(plan.topology.strides[0]) != {1}:
        yield Fault(f"{where}topology.strides[0]", plan.topology.strides[0], "ones: the first stage is of full size")
    steps = tuple(math.prod(axis) for axis in zip(*plan.topology.strides, strict=True))
    if any(size % step for size, step in zip(plan.patch_size, steps, strict=True)) or plan.patch_size == steps:
        words = f"multiples of {steps}, the product of the topology's strides, and more than one"
        yield Fault(f"{where}patch_size", plan.patch_size, words)


def encoder_weights(topology: Topology) -> int:
    """About how many weights the encoder's convolutions have."""
    inputs = (1, *topology.features[:-1])
    kernels = [math.prod(kernel) for kernel in topology.kernel_sizes]
    return sum(
        kernel * own * (before + own * (topology.convolutions_per_stage - 1))
        for kernel, own, before in zip(kernels, topology.features, inputs, strict=True)
    )


def number(field: str, value: float, low: float, high: float) -> Iterator[Fault]:
    """A fault unless the value lies within; NaN does not."""
    if not low <= value <= high:
        yield Fault(field, value, f"{low:g} to {high:g}")


def numbers(field: str, values: Sequence[float], count: int, low: float, high: float) -> Iterator[Fault]:
    """A fault unless there are so many values, all within."""
    if len(values) != count or not all(low <= value <= high for value in values):
        yield Fault(field, values, f"{count} number{'' if count == 1 else 's'} from {low:g} to {high:g}")
