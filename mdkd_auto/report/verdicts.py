"""The verdict of each comparison in a table: decided on numbers here, rendered as text last."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mdkd_auto.core.records import Record
from mdkd_auto.metrics.statistics import WANTED_GAIN, Comparison, holm
from mdkd_auto.report.comparison import Layout, Row, means_of, values_of
from mdkd_auto.tasks.task_scores import Scale

SIGNIFICANCE = 0.05
ONE_TRAINING = "one training each; other seeds may differ"

Outcome = Literal[
    "helped",  # significantly better than the reference
    "hurt",  # significantly worse
    "no_evidence",  # tested, not significant
    "contradictory",  # significant, but most differences have the opposite sign to their mean
    "not_tested",  # too few differences for a test, or all are zero
    "both_fail",  # neither model is useful: the difference is not judged
    "not_evaluable",  # no replicate or no case in common
]


class Verdict(Record, frozen=True, kw_only=True):
    """A comparison and what it shows. Differences are fractions, as in the comparison; the p-value is Holm's."""

    column: str
    reference: str
    outcome: Outcome
    comparison: Comparison | None  # None without a finished replicate in common
    p_value: float | None = None  # two-sided, adjusted for all comparisons of the table; None if not tested


def verdicts(layout: Layout, rows: Sequence[Row]) -> dict[str, dict[str, Verdict]]:
    """Target -> name of the comparison -> verdict; p-values are adjusted over the whole table (Holm)."""
    family = [(row, name) for row in rows for name in _shown(layout, row)]
    comparisons = [row.comparisons.get(name) for row, name in family]
    adjusted = holm([comparison.p_value if comparison is not None else None for comparison in comparisons])
    result: dict[str, dict[str, Verdict]] = {row.target: {} for row in rows}
    for (row, name), comparison, p_value in zip(family, comparisons, adjusted, strict=True):
        failed = _both_fail(row, layout, name)
        result[row.target][name] = judge(layout, name, comparison, p_value, failed)
    return result


def judge(
    layout: Layout, name: str, comparison: Comparison | None, adjusted_p: float | None, failed: bool = False
) -> Verdict:
    """Decide one comparison. ``adjusted_p``: Holm, over the table. ``failed``: neither model is useful."""
    column, reference = layout.contrasts[name]
    outcome = _outcome(comparison, adjusted_p, failed)
    return Verdict(column=column, reference=reference, outcome=outcome, comparison=comparison, p_value=adjusted_p)


def _outcome(comparison: Comparison | None, p_value: float | None, failed: bool) -> Outcome:
    if comparison is None or comparison.mean_difference is None:
        return "not_evaluable"
    if failed:
        return "both_fail"
    if p_value is None:
        return "not_tested"
    interval = comparison.interval
    excludes_zero = interval is not None and interval[0] * interval[1] > 0
    if p_value >= SIGNIFICANCE or not excludes_zero:
        return "no_evidence"
    if comparison.ranks_disagree:
        return "contradictory"
    return "helped" if comparison.mean_difference > 0 else "hurt"


def _shown(layout: Layout, row: Row) -> list[str]:
    """The comparisons of a target; not every target has every column: its sources are its own."""
    return [
        name
        for name, (column, reference) in layout.contrasts.items()
        if column in row.summaries and (name in layout.references or reference in row.summaries)
    ]


def _both_fail(row: Row, layout: Layout, name: str) -> bool:
    """Whether both columns of a comparison score below the least that counts, above chance."""
    scores = [_above_chance(row, column, layout.scale) for column in layout.contrasts[name]]
    best = max((float(np.mean(replicates)) for replicates in scores if replicates), default=0.0)
    return best < layout.scale.nothing


def _above_chance(row: Row, column: str, scale: Scale) -> list[float]:
    """The score of a column above chance, one per evaluable replicate; over patients, as the verdict."""
    chance = max((scale.chance(summary) for summary in row.summaries.get(column, ())), default=0.0)
    metric = scale.found_by or scale.metrics[0]
    means = means_of(row, column, per_volume=True) or means_of(row, column, per_volume=False)
    return [value - chance for value in values_of(means, metric)]


# --- text -------------------------------------------------------------------------------------------------------------


def verdict_text(verdict: Verdict, layout: Layout, name: str) -> str:
    """The verdict as one sentence: the difference with its evidence, then what it shows."""
    comparison = verdict.comparison
    if comparison is None:
        return f"not evaluable: {verdict.column} and {verdict.reference} share no finished replicate"
    if comparison.mean_difference is None:
        return "not evaluable: no case has a score in both columns"
    points = 100 * comparison.mean_difference
    difference = f"{verdict.column} {points:+.1f} points {layout.scale.judged} against {verdict.reference}"
    return f"{difference} ({_evidence(comparison, verdict.p_value)}): {_conclusion(verdict, comparison, layout, name)}"


def _evidence(comparison: Comparison, p_value: float | None) -> str:
    """n=10, 95 % interval +12.6 to +16.4, Wilcoxon p=0.006 after Holm."""
    parts = [f"n={comparison.pairs}"]
    if comparison.left_out:
        parts.append(f"{comparison.left_out} not evaluable")
    if comparison.replicates > 1 and comparison.spread is not None:
        parts.append(f"{comparison.replicates} replicates with SD {100 * comparison.spread:.1f}")
    if comparison.interval is not None:
        low, high = comparison.interval
        parts.append(f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}")
    if p_value is None:
        return f"{', '.join(parts)}; {comparison.note}"
    return ", ".join([*parts, f"{comparison.test} p={p_value:.3f} after Holm"])


def _conclusion(verdict: Verdict, comparison: Comparison, layout: Layout, name: str) -> str:
    if verdict.outcome == "both_fail":
        return f"no verdict, {_failure(layout.scale)}; train longer, or check the data"
    if verdict.outcome in ("helped", "hurt"):
        answer = layout.answers_of(name)[0 if verdict.outcome == "helped" else 1]
        return answer if comparison.replicates > 1 else f"{answer} ({ONE_TRAINING})"
    if verdict.outcome == "contradictory":
        return f"{layout.undecided}: {comparison.note}"
    if not comparison.detectable:  # None, or differences that are all alike, which leave nothing to estimate it from
        return layout.undecided
    smallest = f"{layout.undecided}; smallest detectable difference: {100 * comparison.detectable:.1f} points"
    return f"{smallest}{_needed(comparison, comparison.detectable)}"


def _needed(comparison: Comparison, detectable: float) -> str:
    """What it takes to detect the wanted gain, where the replicates do not suffice."""
    if comparison.spread is None or detectable <= WANTED_GAIN:
        return ""
    needed = comparison.replicates_needed
    takes = "more patients, not more replicates" if needed is None else f"about {needed} replicates"
    return f" ({100 * WANTED_GAIN:g} points would need {takes})"


def _failure(scale: Scale) -> str:
    if not scale.found_by:
        return f"both score below {100 * scale.nothing:g} % {scale.judged}"
    return f"both are within {100 * scale.nothing:g} points of chance ({scale.quick})"
