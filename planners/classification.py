"""Plan a classification group: whole images, resized to one input size (as for detection)."""

import math
from collections.abc import Sequence

import numpy as np

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.limits import MOST_VOXELS_OF_WHOLE
from mdkd_auto.core.records import Configuration, ConfigurationPlan, Fingerprint, Plan, Reason
from mdkd_auto.planners.group_member import Member
from mdkd_auto.planners.memory import Fit, choose_batch, feature_map_elements, text_voxels
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_stability import earlier_configuration, earlier_input_size
from mdkd_auto.planners.topology import plan_topology

STEP = 32  # the networks' total stride
MOST = {2: 224, 3: 96}  # voxels per side; 2-D: the paper's input, after ImageNet's
LEAST_SIDES = 2  # times STEP: instance normalisation needs more than one voxel at the bottleneck


def plan_whole_images(
    configuration: Configuration,
    members: Sequence[Member],
    request: PlanRequest,
    kept: Plan | None,
    most: int | None = None,
) -> ConfigurationPlan:
    """Plan one square (or cubic) input for all images of a group, and a batch. Raises PlanError for an invalid size.

    The side (a multiple of 32) is the requested one, else that of the earlier plan, else chosen by the rules up to
    ``most``. The earlier plan's batch is kept together with its side and memory.
    """
    axes = 2 if configuration == "2d" else 3
    taking_part = [member for member in members if member.is_2d == (axes == 2)]
    longest = {member.name: float(np.median(member.shapes[:, -axes:].max(axis=1))) for member in taking_part}
    kept_side = earlier_input_size(kept, configuration)
    side, why_size = _input_size(longest, most or MOST[axes], axes, request.input_size, kept_side)
    patch = (side,) * axes
    spacing = (1.0,) * axes  # in voxels of the resized image
    topology = plan_topology(patch, spacing)
    fit = Fit(patch, topology, feature_map_elements(patch, topology))
    voxels = {member.name: float(len(member.shapes) * math.prod(patch)) for member in taking_part}
    batch, why_batch = choose_batch(fit, voxels, request.memory_gb)
    earlier = earlier_configuration(kept, configuration, request.memory_gb)
    if earlier is not None and earlier.patch_size == patch and earlier.batch_size != batch:
        because = f"the rules would now say {batch} ({why_batch.because}); --replan takes it"
        batch = earlier.batch_size
        why_batch = Reason(decision="batch kept", value=str(batch), because=because)
    return ConfigurationPlan(
        configuration=configuration,
        datasets=tuple(member.name for member in taking_part),
        spacing_mm=spacing,
        patch_size=patch,
        batch_size=batch,
        topology=topology,
        whole_images=True,
        reasons=(why_size, why_batch),
    )


def plan_classification(members: Sequence[Member], request: PlanRequest, kept: Plan | None) -> list[ConfigurationPlan]:
    """Plan 2d for data sets of images and 3d_fullres for volumes; earlier decisions are kept."""
    names: tuple[Configuration, ...] = ("2d", "3d_fullres")
    return [
        plan_whole_images(name, members, request, kept)
        for name, flat in zip(names, (True, False), strict=True)
        if any(member.is_2d == flat for member in members)
    ]


def class_counts(fingerprint: Fingerprint) -> Reason:
    """Report the planned cases and patients per class, and the image sizes."""
    counts = ", ".join(f"{name} {count}" for name, count in fingerprint.classes.items())
    sides = np.array([case.shape[-2:] for case in fingerprint.cases])
    low, high = (text_voxels(limit.tolist()) for limit in (sides.min(0), sides.max(0)))
    size = low if low == high else f"{low} to {high}"
    because = f"{len(fingerprint.cases)} cases of {fingerprint.patients} patients outside the test part, "
    because += f"images of {size} voxels"
    return Reason(decision=f"{fingerprint.dataset}: classes", value=counts, because=because)


def _input_size(
    longest: dict[str, float], most: int, axes: int, wanted: int | None, kept: int | None
) -> tuple[int, Reason]:
    if wanted is not None:
        if wanted < LEAST_SIDES * STEP or wanted % STEP:
            below = max(LEAST_SIDES, wanted // STEP) * STEP
            raise PlanError(
                f"input size {wanted}: expected a multiple of {STEP} from {LEAST_SIDES * STEP} on, "
                f"like {below} or {below + STEP}"
            )
        if wanted**axes > MOST_VOXELS_OF_WHOLE:
            most = math.floor(MOST_VOXELS_OF_WHOLE ** (1 / axes) + 0.5)
            raise PlanError(f"input size {wanted}: expected {most} at most along each of {axes} axes")
        return wanted, Reason(decision="input", value=text_voxels((wanted,) * axes), because="asked for")
    smallest = min(longest, key=lambda name: longest[name])
    fitting = math.ceil(longest[smallest] / STEP) * STEP
    side = min(most, max(LEAST_SIDES * STEP, fitting))
    because = f"the images of {smallest} have a median longer side of {longest[smallest]:g} voxels; at most {most}"
    because += f", in steps of {STEP}; longer images are smoothed and made smaller, sides in proportion"
    if kept is not None and kept != side:
        because = f"kept from the earlier plan; the rules would now say {text_voxels((side,) * axes)}: {because}"
        side, because = kept, f"{because}; --replan takes it"
    return side, Reason(decision="input", value=text_voxels((side,) * axes), because=because)
