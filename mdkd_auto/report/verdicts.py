"""What a comparison says, in words."""

from collections.abc import Sequence

import numpy as np

from mdkd_auto.metrics.statistics import WANTED_GAIN, Comparison, holm
from mdkd_auto.report.comparison import Layout, Row, means_of, values_of
from mdkd_auto.tasks.task_scores import Scale

SIGNIFICANCE = 0.05
ONE_TRAINING = "in one training of each: other seeds may say otherwise"


def verdicts(layout: Layout, rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Target -> comparison -> verdict; the p-values are adjusted for all comparisons of the table (Holm)."""
    family = [(row, name) for row in rows for name in _shown(layout, row)]
    found = [row.comparisons.get(name) for row, name in family]
    adjusted = holm([comparison.p_value if comparison is not None else None for comparison in found])
    result: dict[str, dict[str, str]] = {row.target: {} for row in rows}
    for (row, name), comparison, p_value in zip(family, found, adjusted, strict=True):
        scores = [_found_scores(row, column, layout.scale) for column in layout.contrasts[name]]
        best = max((float(np.mean(some)) for some in scores if some), default=0.0)
        result[row.target][name] = verdict(layout, name, comparison, p_value, best < layout.scale.nothing)
    return result


def _shown(layout: Layout, row: Row) -> list[str]:
    """The comparisons of a target; not every target has every column: its sources are its own."""
    return [
        name
        for name, (column, reference) in layout.contrasts.items()
        if column in row.summaries and (name in layout.references or reference in row.summaries)
    ]


def verdict(
    layout: Layout, name: str, comparison: Comparison | None, adjusted_p: float | None, failed: bool = False
) -> str:
    """What a comparison says, in words. ``adjusted_p``: Holm, over the table. ``failed``: neither model is of use."""
    column, reference = layout.contrasts[name]
    if comparison is None:
        return f"not evaluable: {column} and {reference} have no finished replicate in common"
    if comparison.mean_difference is None:
        return "not evaluable: no case is evaluable in both columns"
    points = 100 * comparison.mean_difference
    words = f"{column} {points:+.1f} points {layout.scale.judged} against {reference} (n={comparison.pairs}"
    if comparison.left_out:
        words += f", {comparison.left_out} not evaluable"
    if comparison.replicates > 1 and comparison.spread is not None:
        words += f", {comparison.replicates} replicates that differ by {100 * comparison.spread:.1f}"
    if comparison.interval is not None:
        words += f", 95 % interval {100 * comparison.interval[0]:+.1f} to {100 * comparison.interval[1]:+.1f}"
    tested = f", {comparison.test} p={adjusted_p:.3f} after Holm)" if adjusted_p is not None else None
    words += tested or f"; {comparison.note})"
    if failed:
        return f"{words}: no verdict, {_failure(layout.scale)}; train longer, or look at the data"
    significant = (
        adjusted_p is not None
        and adjusted_p < SIGNIFICANCE
        and comparison.interval is not None
        and comparison.interval[0] * comparison.interval[1] > 0
    )
    if significant and comparison.note:
        return f"{words}: {layout.undecided}: {comparison.note}"
    if significant:
        answer = f"{words}: {layout.answers_of(name)[0 if points > 0 else 1]}"
        return answer if comparison.replicates > 1 else f"{answer}, {ONE_TRAINING}"
    if not comparison.detectable:  # None, or differences that are all alike and say nothing of what could be shown
        return f"{words}: {layout.undecided}"
    words = f"{words}: {layout.undecided}; such data show differences from {100 * comparison.detectable:.1f} points on"
    if comparison.spread is None or comparison.detectable <= WANTED_GAIN:
        return words
    needed = comparison.replicates_needed
    takes = "more patients, whatever the number of replicates" if needed is None else f"about {needed} replicates"
    return f"{words} ({100 * WANTED_GAIN:g} points would take {takes})"


def _failure(scale: Scale) -> str:
    if not scale.found_by:
        return f"both find next to nothing (below {100 * scale.nothing:g} % {scale.judged})"
    return f"both hardly do better than chance ({100 * scale.nothing:g} points {scale.quick})"


def _found_scores(row: Row, column: str, scale: Scale) -> list[float]:
    """What a column found, above chance, one a replicate in which it is evaluable; over patients, as the verdict."""
    chance = max((scale.chance(summary) for summary in row.summaries.get(column, ())), default=0.0)
    metric = scale.found_by or scale.metrics[0]
    means = means_of(row, column, per_volume=True) or means_of(row, column, per_volume=False)
    return [value - chance for value in values_of(means, metric)]
