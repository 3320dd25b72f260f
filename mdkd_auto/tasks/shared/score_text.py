"""Scores and their intervals as the tables of a run write them."""

from collections.abc import Mapping

from mdkd_auto.metrics.summary import Mean


def percent(value: float | None) -> str:
    """61.2, or a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def with_interval(scores: Mean, intervals: Mapping[str, tuple[float, float] | None], metric: str) -> str:
    """61.2 (52.3 to 70.1)."""
    value, interval = percent(scores.metrics[metric].mean), intervals.get(metric)
    return value if interval is None else f"{value} ({percent(interval[0])} to {percent(interval[1])})"
