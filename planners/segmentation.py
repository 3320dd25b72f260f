"""Plan a segmentation group: one spacing, and a patch and topology that fit the memory."""

from collections.abc import Sequence

import numpy as np

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Configuration, ConfigurationPlan, Plan, Reason
from mdkd_auto.planners.group_member import Floats, Member
from mdkd_auto.planners.memory import asked_patch, choose_batch, fit_patch, text_voxels
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_stability import earlier_configuration, keep_configuration, keeps_spacing
from mdkd_auto.planners.spacing import in_plane_spacing, text_mm, volume_spacing
from mdkd_auto.planners.topology import plan_topology

LARGE_LESION_PERCENTILE = 90.0


def plan_segmentation(members: Sequence[Member], request: PlanRequest, kept: Plan | None) -> list[ConfigurationPlan]:
    """Plan 2d, and 3d_fullres if there are volumes; earlier decisions are kept while they are about right."""
    names: tuple[Configuration, ...] = ("2d",) if all(member.is_2d for member in members) else ("2d", "3d_fullres")
    return [keep_configuration(plan_patches(name, members, request, kept), request, kept) for name in names]


def plan_patches(
    configuration: Configuration, members: Sequence[Member], request: PlanRequest, kept: Plan | None
) -> ConfigurationPlan:
    """Plan one configuration by the rules, with the requested spacing and patch if given."""
    wanted_mm, memory_gb = request.spacing_mm, request.memory_gb
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
    ruled, old = spacing, earlier_configuration(kept, configuration, request.memory_gb)
    if wanted_mm is not None:
        spacing = np.array(wanted_mm[-len(spacing) :])
        because = f"asked for; the rules would say {text_mm(ruled)}"
        reasons.append(Reason(decision="spacing asked for", value=text_mm(spacing), because=because))
    elif request.patch_size is not None and old is not None and keeps_spacing(ruled, old.spacing_mm):
        spacing = np.array(old.spacing_mm)
        because = f"only another patch is asked for; the rules would say {text_mm(ruled)}"
        reasons.append(Reason(decision="spacing kept", value=text_mm(spacing), because=because))
    at = spacing if len(spacing) == 3 else np.array([np.nan, *spacing])  # 2-D: each slice keeps its own z
    shapes = {member.name: member.resampled_shapes(at) for member in taking_part}
    median = np.median([np.median(shape, axis=0) for shape in shapes.values()], axis=0)[-len(spacing) :]
    spacing_mm = tuple(float(value) for value in spacing)
    shape = tuple(float(value) for value in median)
    if wanted_mm is not None and len(plan_topology([round(voxels) for voxels in shape], spacing_mm).strides) < 2:
        raise PlanError(
            f"{configuration}: a spacing of {text_mm(spacing)} leaves images of {text_voxels(shape)} voxels, "
            f"too few for a network; ask for a finer one (the rules say {text_mm(ruled)})"
        )
    if request.patch_size is None:
        fit, why_patch = fit_patch(spacing_mm, shape, memory_gb)
    else:
        fit, why_patch = asked_patch(configuration, request.patch_size[-len(spacing) :], spacing_mm, shape, memory_gb)
    voxels = {name: float(shape.prod(axis=1).sum()) for name, shape in shapes.items()}
    batch, why_batch = choose_batch(fit, voxels, memory_gb)
    stages = len(fit.topology.features)
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
    """Report whether the patch covers the large lesions of every data set."""
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
