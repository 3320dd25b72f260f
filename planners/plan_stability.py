"""Keep decisions of an earlier plan while they are about right, so that finished work stays valid."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Normalisation, Plan, Reason, Triple
from mdkd_auto.planners.memory import text_voxels
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.spacing import text_mm

KEEP_SPACING_WITHIN = 0.25  # relative to the spacing the current rules would choose, on every axis
KEEP_NORMALISATION_WITHIN = 0.10  # fraction of the earlier standard deviation


def earlier_configuration(kept: Plan | None, configuration: str, memory_gb: float) -> ConfigurationPlan | None:
    """Return a configuration of the kept plan if it was planned for the same memory."""
    if kept is None or kept.memory_gb != memory_gb:
        return None
    return next((part for part in kept.configurations if part.configuration == configuration), None)


def earlier_input_size(kept: Plan | None, configuration: str) -> int | None:
    """Return the voxels per side of whole images in the kept plan, whatever its memory."""
    parts = () if kept is None else kept.configurations
    return next((part.patch_size[0] for part in parts if part.configuration == configuration), None)


def keep_configuration(fresh: ConfigurationPlan, request: PlanRequest, kept: Plan | None) -> ConfigurationPlan:
    """Keep the earlier spacing, patch, batch and topology if its spacing is within 25 % of the fresh one on every axis.

    A changed memory_gb requires a fresh plan, and so does a requested spacing or patch that differs.
    """
    old = earlier_configuration(kept, fresh.configuration, request.memory_gb)
    if old is None or _decisions(old) == _decisions(fresh):
        return fresh
    within = 0.0 if request.spacing_mm is not None else KEEP_SPACING_WITHIN
    another_patch = request.patch_size is not None and old.patch_size != fresh.patch_size
    if another_patch or not _all_within(fresh.spacing_mm, old.spacing_mm, within):
        return fresh
    reason = Reason(
        decision="kept from the earlier plan",
        value=f"spacing {text_mm(old.spacing_mm)}, patch {text_voxels(old.patch_size)}, batch {old.batch_size}",
        because=f"the rules would now say spacing {text_mm(fresh.spacing_mm)}, patch {text_voxels(fresh.patch_size)}, "
        f"batch {fresh.batch_size}; within {KEEP_SPACING_WITHIN:.0%} finished work stays valid; --replan takes the new",
    )
    return msgspec.structs.replace(
        fresh,
        spacing_mm=old.spacing_mm,
        patch_size=old.patch_size,
        batch_size=old.batch_size,
        topology=old.topology,
        reasons=(reason, *(_would_be(part) for part in fresh.reasons)),
    )


def keeps_spacing(fresh: Sequence[float] | NDArray[np.float64], old: Sequence[float]) -> bool:
    """Whether an earlier spacing is close to the choice of the current rules."""
    return _all_within(fresh, old, KEEP_SPACING_WITHIN)


def keep_dataset(fresh: DatasetPlan, old: DatasetPlan | None) -> tuple[DatasetPlan, list[Reason]]:
    """Keep the earlier transpose, and the earlier normalisation if it is close and of the same channel."""
    if old is None:
        return fresh, []
    reasons = []
    kept = fresh
    if old.transpose != fresh.transpose:
        axes = ["".join("zyx"[axis] for axis in part.transpose) for part in (old, fresh)]
        because = f"the rules would now say {axes[1]}; --replan takes it"
        reasons.append(Reason(decision=f"{fresh.dataset}: axes kept", value=axes[0], because=because))
        kept = msgspec.structs.replace(kept, transpose=old.transpose)
    same_channel = old.channel_name.lower() == fresh.channel_name.lower()
    if same_channel and old.normalisation != fresh.normalisation and _close(old.normalisation, fresh.normalisation):
        new = fresh.normalisation
        because = (
            f"now mean {new.mean:.4g}, std {new.std:.4g}, clip {new.lower:.4g} to {new.upper:.4g}: within "
            f"{KEEP_NORMALISATION_WITHIN:.0%} of a standard deviation; --replan takes them"
        )
        value = f"mean {old.normalisation.mean:.4g}, std {old.normalisation.std:.4g}"
        reasons.append(Reason(decision=f"{fresh.dataset}: normalisation kept", value=value, because=because))
        kept = msgspec.structs.replace(kept, normalisation=old.normalisation)
    return kept, reasons


def keep_assumed_spacing(
    dataset: str, fresh: Triple | None, previous: Plan | None
) -> tuple[Triple | None, Reason | None]:
    """Keep the earlier assumed spacing if one is still needed and it is within 25 %."""
    parts = () if previous is None else previous.datasets
    old = next((part.assumed_spacing_mm for part in parts if part.dataset == dataset), None)
    if fresh is None or old is None or old == fresh or not _all_within(fresh, old, KEEP_SPACING_WITHIN):
        return fresh, None
    because = f"the images would now suggest {fresh[2]:.4g} mm; --replan takes it"
    return old, Reason(decision=f"{dataset}: assumed spacing kept", value=f"{old[2]:.4g} mm", because=because)


def _decisions(plan: ConfigurationPlan) -> tuple[object, ...]:
    return (plan.spacing_mm, plan.patch_size, plan.batch_size, plan.topology)


def _all_within(fresh: Sequence[float] | NDArray[np.float64], old: Sequence[float], share: float) -> bool:
    return len(fresh) == len(old) and all(abs(a - b) <= share * a for a, b in zip(fresh, old, strict=True))


def _close(old: Normalisation, fresh: Normalisation) -> bool:
    """Whether the schemes agree, and all numbers within a fraction of the earlier standard deviation."""
    if old.scheme != fresh.scheme or old.masked != fresh.masked:
        return False
    limit = KEEP_NORMALISATION_WITHIN * old.std
    pairs = ((old.lower, fresh.lower), (old.upper, fresh.upper), (old.mean, fresh.mean), (old.std, fresh.std))
    return all(math.fabs(a - b) <= limit for a, b in pairs)


def _would_be(reason: Reason) -> Reason:
    return msgspec.structs.replace(reason, decision=f"by the rules now: {reason.decision}")
