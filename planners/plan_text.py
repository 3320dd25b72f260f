"""Plans as text: the reasons on the screen, and the changes between two plans."""

from collections.abc import Sequence

from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Normalisation, Plan, Reason
from mdkd_auto.planners.memory import text_voxels
from mdkd_auto.planners.spacing import text_mm


def plan_text(plan: Plan) -> str:
    """Format the decisions and their reasons for a screen or plan.txt."""
    names = ", ".join(part.dataset for part in plan.datasets)
    lines = [f"Plan of {plan.group} ({names}), for {plan.memory_gb:g} GB", ""]
    lines += _reason_lines(plan.reasons)
    for part in plan.configurations:
        lines += ["", f"{part.configuration}: {_summary(part)}", f"  data sets: {', '.join(part.datasets)}"]
        lines += _reason_lines(part.reasons)
    return "\n".join(lines) + "\n"


def describe_changes(old: Plan | None, new: Plan) -> tuple[str, ...]:
    """List the changes of a new plan, one sentence per change; empty if nothing changes."""
    if old is None:
        return (f"{new.group}: planned for the first time",)
    changes = []
    if old.memory_gb != new.memory_gb:
        changes.append(f"memory: {old.memory_gb:g} -> {new.memory_gb:g} GB")
    before, after = ({part.dataset: part for part in plan.datasets} for plan in (old, new))
    changes += [f"{name}: added to the group" for name in after if name not in before]
    changes += [f"{name}: no longer in the group" for name in before if name not in after]
    for name, part in after.items():
        if name in before:
            changes += [f"{name}: {change}" for change in _dataset_changes(before[name], part)]
    earlier, later = ({part.configuration: part for part in plan.configurations} for plan in (old, new))
    changes += [f"{name}: new configuration, {_summary(later[name])}" for name in later if name not in earlier]
    changes += [f"{name}: no longer possible" for name in earlier if name not in later]
    for name in (name for name in later if name in earlier):
        changes += [f"{name}: {change}" for change in _configuration_changes(earlier[name], later[name])]
    return tuple(changes)


def _dataset_changes(old: DatasetPlan, new: DatasetPlan) -> list[str]:
    changes = []
    if (old.channel, old.channel_name) != (new.channel, new.channel_name):
        changes.append(f"channel {old.channel} {old.channel_name} -> {new.channel} {new.channel_name}")
    if old.transpose != new.transpose:
        changes.append(f"order of axes {old.transpose} -> {new.transpose}")
    if old.assumed_spacing_mm != new.assumed_spacing_mm:
        shown = ["none" if part.assumed_spacing_mm is None else text_mm(part.assumed_spacing_mm) for part in (old, new)]
        changes.append(f"assumed spacing {shown[0]} -> {shown[1]}")
    if old.normalisation != new.normalisation:
        changes.append(f"normalisation {_normalisation(old.normalisation)} -> {_normalisation(new.normalisation)}")
    return changes


def _configuration_changes(old: ConfigurationPlan, new: ConfigurationPlan) -> list[str]:
    changes = []
    if old.spacing_mm != new.spacing_mm:
        changes.append(f"spacing {text_mm(old.spacing_mm)} -> {text_mm(new.spacing_mm)}")
    if old.patch_size != new.patch_size:
        changes.append(f"patch {text_voxels(old.patch_size)} -> {text_voxels(new.patch_size)}")
    if old.batch_size != new.batch_size:
        changes.append(f"batch {old.batch_size} -> {new.batch_size}")
    if old.topology != new.topology:
        stages = [len(part.topology.features) for part in (old, new)]
        shown = f"{stages[0]} -> {stages[1]} stages" if stages[0] != stages[1] else "other kernels, strides or features"
        changes.append(f"network {shown}")
    if set(old.datasets) != set(new.datasets):
        changes.append(f"data sets {', '.join(old.datasets)} -> {', '.join(new.datasets)}")
    return changes


def _normalisation(part: Normalisation) -> str:
    if part.scheme == "zscore":
        return "zscore of non-zero voxels" if part.masked else "zscore"
    return f"ct (clip {part.lower:.4g} to {part.upper:.4g}, mean {part.mean:.4g}, std {part.std:.4g})"


def _summary(part: ConfigurationPlan) -> str:
    if part.whole_images:
        return f"input {text_voxels(part.patch_size)}, batch {part.batch_size}"
    return f"spacing {text_mm(part.spacing_mm)}, patch {text_voxels(part.patch_size)}, batch {part.batch_size}"


def _reason_lines(reasons: Sequence[Reason]) -> list[str]:
    return [f"  {reason.decision} = {reason.value}: {reason.because}" for reason in reasons]
