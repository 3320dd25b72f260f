"""Figures of a table's comparisons: every difference with its interval, and gain against number of labels."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.execution.run_folder import read_run
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.report.comparison import Row, judged_scores
from mdkd_auto.report.tables import Table
from mdkd_auto.tasks.task_scores import Scale

# Okabe and Ito 2008, without yellow, which is hard to see on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_LINE_INCHES = 0.34  # of a compared column
_TARGET_INCHES = 0.75  # title and space around
_AXIS_INCHES = 0.6


def draw_differences(path: Path, table: Table) -> None:
    """Write :func:`differences` as a PNG."""
    _save(path, differences(table))


def draw_gain_by_labels(path: Path, experiment: Experiment, table: Table) -> None:
    """Write :func:`gain_by_labels` as a PNG."""
    _save(path, gain_by_labels(experiment, table))


def _save(path: Path, figure: Figure) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def differences(table: Table) -> Figure:
    """A panel a target, a line a comparison: mean difference over patients and its 95 % interval.

    Raises MdkdError where no column is evaluable.
    """
    judged = {row.target: _judged(row) for row in table.rows}
    rows = [row for row in table.rows if judged[row.target]]
    if not rows:
        raise MdkdError("no two columns share an evaluable case")
    heights = [_TARGET_INCHES + _LINE_INCHES * len(judged[row.target]) for row in rows]
    figure = Figure(figsize=(9, _AXIS_INCHES + sum(heights)), layout="constrained")
    panels = figure.subplots(len(rows), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        _draw_target(axes, row, judged[row.target], table)
    panels[-1].set_xlabel(f"difference of {table.layout.scale.judged}, points, and its 95 % interval")
    return figure


def _draw_target(axes: Axes, row: Row, names: list[str], table: Table) -> None:
    for place, name in enumerate(names):
        comparison = row.comparisons[name]
        assert comparison.mean_difference is not None
        if comparison.interval is not None:
            low, high = (100 * bound for bound in comparison.interval)
            axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=2)
        axes.plot(100 * comparison.mean_difference, place, "o", color=COLOURS[0], markersize=7)
    contrasts = [table.layout.contrasts[name] for name in names]
    references = {contrast.reference for contrast in contrasts}
    one = len(references) == 1
    axes.set_yticks(
        range(len(names)), [column if one else f"{column}\nagainst {reference}" for column, reference in contrasts]
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    against = f", against {next(iter(references))}" if one else ""
    pairs = max(row.comparisons[name].pairs for name in names)
    axes.set_title(f"{row.target}{against} (n={pairs})".replace("$", r"\$"), fontsize=10)


def _judged(row: Row) -> list[str]:
    return [name for name, comparison in row.comparisons.items() if comparison.mean_difference is not None]


class _Point:
    """One share of the labels: patients, score of each replicate with and without the sources, and the gain."""

    def __init__(self, experiment: Experiment, row: Row, column: str, reference: str, scale: Scale) -> None:
        fraction = read_run(experiment.root.results / row.folders[column][0]).job.label_fraction
        cases = experiment.cases(row.target, "train", fraction)
        self.patients = len(set(experiment.patients(row.target, cases).values()))
        self.alone = [100 * value for value in judged_scores(row, reference, scale)]
        self.helped = [100 * value for value in judged_scores(row, column, scale)]
        comparison = row.comparisons[column]
        assert comparison.mean_difference is not None
        self.gain = 100 * comparison.mean_difference
        self.interval = None if comparison.interval is None else [100 * bound for bound in comparison.interval]


def gain_by_labels(experiment: Experiment, table: Table) -> Figure:
    """Left the score with and without the other data sets, right the gain, over the number of labelled patients.

    Raises MdkdError where no column is evaluable.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    scores, gains = figure.subplots(1, 2)
    for row, colour in zip(table.rows, COLOURS * len(table.rows), strict=False):
        references = table.layout.references
        points = [_Point(experiment, row, column, references[column], table.layout.scale) for column in _judged(row)]
        points.sort(key=lambda point: point.patients)
        if points:
            _draw_points(scores, gains, points, row.target, colour)
    if not gains.lines:
        raise MdkdError("no two columns share an evaluable case")
    ticks = sorted({int(value) for line in gains.lines for value in line.get_xdata() if value > 0})
    for axes in (scores, gains):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("patients of the target with labels")
        axes.grid(alpha=0.3)
    judged = table.layout.scale.judged
    scores.set_ylabel(f"{judged}, %: data-set-specific - -, student —")
    gains.set_ylabel(f"gain of the student, points {judged}, 95 % interval")
    gains.axhline(0, color="#000000", linewidth=0.8)
    gains.legend()
    return figure


def _draw_points(scores: Axes, gains: Axes, points: list[_Point], target: str, colour: str) -> None:
    patients = [point.patients for point in points]
    for style, values in (("--", [point.alone for point in points]), ("-", [point.helped for point in points])):
        scores.plot(patients, [sum(some) / len(some) for some in values], style, color=colour, linewidth=2)
        filled = colour if style == "-" else "none"
        for number, some in zip(patients, values, strict=True):
            scores.plot([number] * len(some), some, "o", color=colour, markerfacecolor=filled, markersize=4, alpha=0.7)
    gains.plot(patients, [point.gain for point in points], "o-", color=colour, label=target.replace("$", r"\$"))
    for point in points:
        if point.interval is not None:
            gains.plot([point.patients] * 2, point.interval, color=colour, linewidth=1.2, alpha=0.7)
