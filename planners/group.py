"""Plan a group: one spacing, patch, topology and input channel for all data sets of a modality and task."""

from collections.abc import Mapping, Sequence

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Dataset, DatasetPlan, Fingerprint, Plan, Reason
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.planners.channel import choose_channels
from mdkd_auto.planners.group_member import make_member
from mdkd_auto.planners.normalisation import choose_normalisation
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_stability import keep_assumed_spacing, keep_dataset
from mdkd_auto.planners.spacing import assume_spacing, choose_transpose
from mdkd_auto.planners.task_rules import TASK_RULES


def plan_group(
    datasets: Sequence[Dataset],
    fingerprints: Mapping[str, Fingerprint],
    request: PlanRequest,
    previous: Plan | None = None,
) -> Plan:
    """Decide what the data sets of a group share, and what each one has of its own.

    Decisions of ``previous`` are kept while they are about right (see :mod:`mdkd_auto.planners.plan_stability`) unless
    the request is to replan. Raises PlanError, also for a requested channel of a data set that is not in the group.
    """
    _require_plannable(datasets, fingerprints, request.memory_gb)
    kept = None if request.replan else previous
    earlier = (
        {dataset_plan.dataset: dataset_plan.channel_name for dataset_plan in kept.datasets} if kept is not None else {}
    )
    indices, reasons = choose_channels(datasets, request.channels, earlier)
    parts = []
    for dataset in datasets:
        dataset_plan, why = _plan_dataset(dataset, fingerprints[dataset.name], indices[dataset.name], kept)
        parts.append(dataset_plan)
        reasons.extend(why)
    members = [make_member(fingerprints[dataset_plan.dataset], dataset_plan) for dataset_plan in parts]
    first = datasets[0]
    configurations = TASK_RULES[first.task].plan(members, request, kept)
    return Plan(
        group=first.group,
        modality=first.modality,
        task=first.task,
        memory_gb=request.memory_gb,
        datasets=tuple(parts),
        configurations=tuple(configurations),
        reasons=tuple(_by_dataset(reasons, parts)),
    )


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
    counts = TASK_RULES[dataset.task].counts
    if counts is not None and fingerprint.classes:
        reasons.insert(0, counts(fingerprint))
    if why_assumed is not None and TASK_DATA[dataset.task].masks:  # whole images are resized, whatever their spacing
        reasons.append(kept_assumed or why_assumed)
    dataset_plan, why_kept = keep_dataset(fresh, old)
    return dataset_plan, reasons + why_kept


def _previous_part(previous: Plan | None, name: str) -> DatasetPlan | None:
    return (
        None
        if previous is None
        else next((dataset_plan for dataset_plan in previous.datasets if dataset_plan.dataset == name), None)
    )


def _by_dataset(reasons: Sequence[Reason], parts: Sequence[DatasetPlan]) -> list[Reason]:
    """Sort reasons by data set, in the order of the parts."""
    names = [dataset_plan.dataset for dataset_plan in parts]
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
        raise PlanError(f"{', '.join(empty)}: no usable case outside the test part, so nothing can be planned")
    if memory_gb <= 0:
        raise PlanError(f"memory_gb is {memory_gb:g}; it must be above 0")
