"""The group plan: one spacing, patch, topology and input channel for all data sets of a modality and task."""

from collections.abc import Mapping, Sequence

import numpy as np

from mdkd_auto.errors import PlanError
from mdkd_auto.planners.channel import choose_channels
from mdkd_auto.planners.classification import class_counts, plan_whole_images
from mdkd_auto.planners.detection import box_counts, plan_detection
from mdkd_auto.planners.keep import keep_assumed_spacing, keep_configuration, keep_dataset
from mdkd_auto.planners.member import Floats, Member, make_member
from mdkd_auto.planners.memory import choose_batch, fit_patch, text_voxels
from mdkd_auto.planners.normalisation import choose_normalisation
from mdkd_auto.planners.spacing import assume_spacing, choose_transpose, in_plane_spacing, text_mm, volume_spacing
from mdkd_auto.records import (
    Configuration,
    ConfigurationPlan,
    Dataset,
    DatasetPlan,
    Fingerprint,
    Plan,
    Reason,
    Triple,
)

LARGE_LESION_PERCENTILE = 90.0


def plan_group(
    datasets: Sequence[Dataset],
    fingerprints: Mapping[str, Fingerprint],
    memory_gb: float = 8.0,
    channels: Mapping[str, str] | None = None,
    previous: Plan | None = None,
    replan: bool = False,
    spacing_mm: Triple | None = None,
    input_size: int | None = None,
) -> Plan:
    """Decide everything the data sets of one group share, and what is each one's own.

    ``channels`` maps a data set to the name or index of its input channel. What ``previous`` decided is kept
    where it is still about right (see :mod:`mdkd_auto.planners.keep`) unless ``replan``. ``spacing_mm`` (z, y, x of
    the transposed axes) is taken instead of what the rules say, ``input_size`` (voxels a side) of a classification
    or detection group likewise. Raises PlanError.
    """
    _require_plannable(datasets, fingerprints, memory_gb)
    kept = None if replan else previous
    overrides = channels or {}
    earlier = {part.dataset: part.channel_name for part in kept.datasets} if kept is not None else {}
    indices, reasons = choose_channels(datasets, overrides, earlier)
    parts = []
    for dataset in datasets:
        part, why = _plan_dataset(dataset, fingerprints[dataset.name], indices[dataset.name], kept)
        parts.append(part)
        reasons.extend(why)
    members = [make_member(fingerprints[part.dataset], part) for part in parts]
    first = datasets[0]
    configurations = []
    if first.task == "classification":
        configurations = _whole_images(members, memory_gb, input_size, kept)
    elif first.task == "detection":
        earlier_plan = _earlier(kept, memory_gb).get("2d")
        side = earlier_plan.patch_size[0] if earlier_plan is not None and input_size is None else input_size
        configurations = [plan_detection(members, fingerprints, memory_gb, side, earlier_plan)]
    else:
        for configuration in _configurations(members):
            fresh = _plan_configuration(configuration, members, memory_gb, spacing_mm)
            configurations.append(keep_configuration(fresh, kept, memory_gb, exactly=spacing_mm is not None))
    return Plan(
        group=first.group,
        modality=first.modality,
        task=first.task,
        memory_gb=memory_gb,
        datasets=tuple(parts),
        configurations=tuple(configurations),
        reasons=tuple(_by_dataset(reasons, parts)),
    )


def _whole_images(
    members: Sequence[Member], memory_gb: float, input_size: int | None, kept: Plan | None
) -> list[ConfigurationPlan]:
    """2d for the data sets of images, 3d_fullres for those of volumes; what was planned before stays."""
    earlier = _earlier(kept, memory_gb)
    made = []
    names: tuple[Configuration, ...] = ("2d", "3d_fullres")
    for name, flat in zip(names, (True, False), strict=True):
        if any(member.is_2d == flat for member in members):
            side = earlier[name].patch_size[0] if name in earlier and input_size is None else input_size
            made.append(plan_whole_images(name, members, memory_gb, side))
    return made


def _earlier(kept: Plan | None, memory_gb: float) -> dict[str, ConfigurationPlan]:
    """What was planned before for as much memory, by configuration."""
    if kept is None or kept.memory_gb != memory_gb:
        return {}
    return {part.configuration: part for part in kept.configurations}


def _plan_dataset(
    dataset: Dataset, fingerprint: Fingerprint, channel: int, previous: Plan | None
) -> tuple[DatasetPlan, list[Reason]]:
    assumed, why_assumed, kept_assumed = dataset.spacing_mm, None, None
    if assumed is None:
        assumed, why_assumed = assume_spacing(fingerprint, dataset.modality)
        assumed, kept_assumed = keep_assumed_spacing(dataset.name, assumed, previous)
    transpose, why_transpose = choose_transpose(fingerprint, assumed)
    old = _previous_part(previous, dataset.name)
    normalisation, why_normalisation = choose_normalisation(fingerprint, channel)
    fresh = DatasetPlan(
        dataset=dataset.name,
        channel=channel,
        channel_name=dataset.channel_names[channel],
        transpose=transpose,
        assumed_spacing_mm=assumed,
        normalisation=normalisation,
    )
    axes = "".join("zyx"[axis] for axis in transpose)
    reasons = [Reason(decision=f"{dataset.name}: axes", value=axes, because=why_transpose), why_normalisation]
    if fingerprint.classes:
        reasons.insert(0, (box_counts if dataset.task == "detection" else class_counts)(fingerprint))
    if why_assumed is not None and dataset.task == "segmentation":  # whole images are resized, whatever their spacing
        reasons.append(kept_assumed or why_assumed)
    part, why_kept = keep_dataset(fresh, old)
    return part, reasons + why_kept


def _previous_part(previous: Plan | None, name: str) -> DatasetPlan | None:
    return None if previous is None else next((part for part in previous.datasets if part.dataset == name), None)


def _configurations(members: Sequence[Member]) -> tuple[Configuration, ...]:
    return ("2d",) if all(member.is_2d for member in members) else ("2d", "3d_fullres")


def _plan_configuration(
    configuration: Configuration, members: Sequence[Member], memory_gb: float, wanted_mm: Triple | None
) -> ConfigurationPlan:
    """What the rules say of one configuration, at the spacing wanted if there is one."""
    if configuration == "2d":
        taking_part = list(members)
        spacing, reasons = in_plane_spacing(taking_part)
    else:
        taking_part = [member for member in members if not member.is_2d]
        spacing, reasons = volume_spacing(taking_part)
        flat = ", ".join(member.name for member in members if member.is_2d)
        if flat:
            because = f"{flat}: 2-D images have no volumes"
            reasons.insert(0, Reason(decision="data sets", value=str(len(taking_part)), because=because))
    if wanted_mm is not None:
        ruled, spacing = spacing, np.array(wanted_mm[-len(spacing) :])
        because = f"asked for; the rules would say {text_mm(ruled)}"
        reasons.append(Reason(decision="spacing asked for", value=text_mm(spacing), because=because))
    at = spacing if len(spacing) == 3 else np.array([np.nan, *spacing])  # 2-D: each slice keeps its own z
    shapes = {member.name: member.resampled_shapes(at) for member in taking_part}
    median = np.median([np.median(shape, axis=0) for shape in shapes.values()], axis=0)[-len(spacing) :]
    spacing_mm = tuple(float(value) for value in spacing)
    fit, why_patch = fit_patch(spacing_mm, tuple(float(value) for value in median), memory_gb)
    voxels = {name: float(shape.prod(axis=1).sum()) for name, shape in shapes.items()}
    batch, why_batch = choose_batch(fit, voxels, memory_gb)
    stages = len(fit.topology.features)
    if wanted_mm is not None and stages < 2:
        raise PlanError(
            f"{configuration}: a spacing of {text_mm(spacing)} leaves images of {text_voxels(median.tolist())} voxels, "
            f"too few for a network; ask for a finer one (the rules say {text_mm(ruled)})"
        )
    why_topology = Reason(
        decision="topology",
        value=f"{stages} stages",
        because=f"an axis is pooled while it has 8 voxels and is less than 2 x coarser than the finest; "
        f"features {', '.join(str(width) for width in fit.topology.features)}",
    )
    return ConfigurationPlan(
        configuration=configuration,
        datasets=tuple(member.name for member in taking_part),
        spacing_mm=spacing_mm,
        patch_size=fit.patch_size,
        batch_size=batch,
        topology=fit.topology,
        reasons=(*reasons, why_patch, *_lesion_coverage(fit.patch_size, spacing, taking_part), why_topology, why_batch),
    )


def _lesion_coverage(patch_size: Sequence[int], spacing: Floats, members: Sequence[Member]) -> list[Reason]:
    """Whether the patch holds the large lesions of every data set."""
    large = {
        member.name: float(np.percentile(member.diameters_mm, LARGE_LESION_PERCENTILE))
        for member in members
        if member.diameters_mm.size
    }
    if not large:
        return []
    name = max(large, key=lambda key: large[key])
    width = float(np.min(np.array(patch_size) * spacing))
    value = "yes" if width >= large[name] else "no"
    because = f"the patch is at least {width:.4g} mm wide; the largest 90th percentile is {large[name]:.4g} mm ({name})"
    return [Reason(decision="patch covers the 90th percentile lesion", value=value, because=because)]


def _by_dataset(reasons: Sequence[Reason], parts: Sequence[DatasetPlan]) -> list[Reason]:
    """Reasons sorted by data set, in the order of the parts."""
    names = [part.dataset for part in parts]
    return sorted(reasons, key=lambda reason: names.index(reason.decision.split(":")[0]))


def _require_plannable(datasets: Sequence[Dataset], fingerprints: Mapping[str, Fingerprint], memory_gb: float) -> None:
    if not datasets:
        raise PlanError("There is no data set to plan; give at least one")
    groups = sorted({dataset.group for dataset in datasets})
    if len(groups) > 1:
        raise PlanError(f"A plan is for one group, these data sets belong to several: {', '.join(groups)}")
    empty = [
        dataset.name for dataset in datasets if dataset.name not in fingerprints or not fingerprints[dataset.name].cases
    ]
    if empty:
        raise PlanError(f"{', '.join(empty)}: no usable case was fingerprinted, so nothing can be planned")
    if memory_gb <= 0:
        raise PlanError(f"memory_gb is {memory_gb:g}; it must be above 0")
