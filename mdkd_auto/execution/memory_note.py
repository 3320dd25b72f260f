"""Whether a job's networks keep more than the plan's UNet, for which patch and batch were chosen."""

from math import floor

from mdkd_auto.execution.run_folder import RunRecord
from mdkd_auto.planners.memory import feature_map_elements, memory_needed_gb
from mdkd_auto.training.interfaces import Objective
from mdkd_auto.training.memory import kept_numbers

NUMBERS_AN_ELEMENT = 2  # that a UNet keeps of each feature map the plan counts: a convolution's, and once activated
SLACK = 1.25  # the reference is no more exact; a student of the plan's own width stays within
MOST = 8.0  # x the plan's UNet, an architecture or stage of the plan's width; a small job need not be counted


def memory_note(objective: Objective, run: RunRecord, batch_size: int, planned_gb: float) -> str | None:
    """How much the job needs and what to do, in a sentence; None where it is about what was planned for, or less."""
    plan, axes = run.plan, len(run.plan.patch_size)
    widening = max(1.0, (run.job.width or 0) / plan.topology.features[0]) * len(run.job.datasets)
    of_plan = memory_needed_gb(batch_size * feature_map_elements(plan.patch_size, plan.topology), axes)
    if MOST * widening * of_plan < planned_gb:
        return None
    elements = batch_size * kept_numbers(objective, plan.patch_size) / NUMBERS_AN_ELEMENT
    needed_gb = memory_needed_gb(elements, axes)
    if needed_gb <= SLACK * planned_gb:
        return None
    fitting = floor(batch_size * planned_gb / needed_gb)
    remedies = [f"--batch-size {fitting}"] if fitting >= 1 else []
    remedies += ["a smaller --width", f"a plan made with --memory-gb {max(1.0, planned_gb**2 / needed_gb):.2g}"]
    return (
        f"batches of {batch_size} need about {needed_gb:.2g} GB in this network, the plan is for {planned_gb:g} GB. On "
        f"a smaller device use {', '.join(remedies[:-1])} or {remedies[-1]}; else batches are split where they must be"
    )
