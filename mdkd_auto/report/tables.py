"""Tables: every target, columns side by side, each number with its n and the spread of its replicates, and verdicts.

A column is one kind of model; its replicates are the same training with other seeds or folds.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from mdkd_auto.errors import TrainingError
from mdkd_auto.experiments.evaluate import read_summary
from mdkd_auto.experiments.jobs import Experiment, Job, is_finished
from mdkd_auto.experiments.parts import TEST, VALIDATION, AnySummary
from mdkd_auto.experiments.runs import Finished
from mdkd_auto.experiments.scoring import Summary
from mdkd_auto.experiments.task_scores import TASK_SCORES, Scale
from mdkd_auto.files import content_hash, read_json, read_record, write_json, write_text
from mdkd_auto.metrics.classification import mcnemar
from mdkd_auto.metrics.statistics import WANTED_GAIN, Comparison, holm, replicated_comparison
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.paths import RunFolder
from mdkd_auto.records import DEFAULT_TASK, Record
from mdkd_auto.settings import Settings

SIGNIFICANCE = 0.05
HELPED = "the other data sets helped"
WHOSE_GAIN = (
    "A student learns on top of trained teachers. How much of a gain is the other data sets', and not that longer "
    "training's, only controls tell: `mdkd_ablate controls`."
)
COLUMNS = ("multi-head", "data-set-specific", "joint teacher", "student")
Trained = tuple[Experiment, Job]


class Contrast(NamedTuple):
    """A column and the column it is compared with."""

    column: str
    reference: str


class Layout(NamedTuple):
    """What a table compares: each judged column with its reference, and what else is asked."""

    title: str
    name: str  # in the names of its files
    columns: tuple[str, ...]
    references: Mapping[str, str]  # judged column -> the column it is compared with
    question: str
    scale: Scale = TASK_SCORES[DEFAULT_TASK].scale
    answers: tuple[str, str] = (HELPED, "the other data sets hurt")
    undecided: str = "no evidence that the other data sets helped or hurt"
    further: tuple[Contrast, ...] = ()  # comparisons beside those of ``references``, below them
    further_question: str = ""
    further_reading: str = ""  # what their answers mean

    @property
    def contrasts(self) -> dict[str, Contrast]:
        """By name: that of the judged column; of a further one "student against self-distilled"."""
        judged = {column: Contrast(column, reference) for column, reference in self.references.items()}
        return judged | {f"{one.column} against {one.reference}": one for one in self.further}

    def answers_of(self, name: str) -> tuple[str, str]:
        """The words for a positive and a negative difference."""
        if name in self.references:
            return self.answers
        column, reference = self.contrasts[name]
        return f"{column} is ahead of {reference}", f"{column} is behind {reference}"


class Entry(NamedTuple):
    """One target of a table: for each column its job in every replicate, None where there is none."""

    target: str
    sources: tuple[str, ...]
    columns: dict[str, tuple[Trained | None, ...]]


class Row(Record, frozen=True, kw_only=True):
    """One target of a table with the results; replicates that are not finished are left out of a column."""

    target: str
    sources: tuple[str, ...]
    part: str  # test, or validation where the splits leave no test part
    summaries: dict[str, tuple[AnySummary, ...]]  # by column, one a finished replicate
    folders: dict[str, tuple[str, ...]]  # by column
    checks: dict[str, dict[str, float | bool | str]]  # of the first joint teacher and student
    comparisons: dict[str, Comparison]  # by the names of Layout.contrasts, over patients
    updates: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)  # trained, by column, one a replicate

    def masks(self, column: str) -> Summary:
        """The first replicate of a column, in segmentation."""
        summary = self.summaries[column][0]
        assert isinstance(summary, Summary)
        return summary


class Table(NamedTuple):
    """Where the table was written, and its text."""

    path: Path
    markdown: str
    rows: tuple[Row, ...]
    layout: Layout


# --- what is compared -----------------------------------------------------------------------------------------------


def permutation_table(replicates: Sequence[tuple[Experiment, list[Job]]]) -> Table | None:
    """The table of all targets with a finished student, as Markdown, CSV and JSON; None without one."""
    experiment = replicates[0][0]
    students = {job.target: job for other, jobs in replicates for job in jobs
                if job.stage == "student" and is_finished(other.root, job)}  # fmt: skip
    entries = [
        Entry(target, student.sources, {
            column: tuple(_job_of(column, target, student.sources, *replicate) for replicate in replicates)
            for column in COLUMNS
        })
        for target, student in sorted(students.items())
    ]  # fmt: skip
    said = replicates_text([other for other, _ in replicates])
    layout = Layout(
        title=f"{experiment.plan.group}, {experiment.configuration}, {said}",
        name=f"{experiment.configuration}_{said.replace(' ', '_').replace(',', '')}",
        columns=COLUMNS,
        references={"student": "data-set-specific"},
        question="Did the other data sets help?",
        scale=TASK_SCORES[experiment.plan.task].scale,
    )
    return write_table(experiment, layout, entries)


def _job_of(
    column: str, target: str, sources: tuple[str, ...], experiment: Experiment, jobs: list[Job]
) -> Trained | None:
    """The finished job of a column; none where the target has not the fold, whatever a multi-head model is of."""
    for job in jobs if experiment.has_fold(target) else ():
        fits = {
            "multi-head": job.stage == "multi_head" and set(job.datasets) == {target, *sources},
            "data-set-specific": job.stage == "teacher" and job.target == target and _same_network(job, jobs),
            "joint teacher": job.stage == "joint_teacher" and (job.target, job.sources) == (target, sources),
            "student": job.stage == "student" and (job.target, job.sources) == (target, sources),
        }[column]
        if fits and is_finished(experiment.root, job):
            return experiment, job
    return None


def _same_network(teacher: Job, jobs: list[Job]) -> bool:
    """Whether a teacher is of the students' kind, and so their baseline."""
    students = {(job.architecture, job.width) for job in jobs if job.stage == "student"}
    return not students or (teacher.architecture, teacher.width) in students


def replicates_text(experiments: Sequence[Experiment]) -> str:
    """Fold 0; or 5 folds, 3 seeds."""
    seeds = {experiment.settings.seed for experiment in experiments}
    folds = sorted({experiment.settings.fold for experiment in experiments})
    text = f"fold {folds[0]}" if len(folds) == 1 else f"{len(folds)} folds"
    return text if len(seeds) == 1 else f"{text}, {len(seeds)} seeds"


def write_table(experiment: Experiment, layout: Layout, entries: Sequence[Entry]) -> Table | None:
    """Write a table as Markdown, CSV and JSON beside the runs; None without a finished run in a judged column."""
    made = [_row(layout, entry) for entry in entries]
    rows = tuple(row for row in made if any(row.summaries.get(column) for column in layout.references))
    if not rows:
        return None
    keys = [job.identity["key"] for entry in entries for column in layout.references
            for _, job in filter(None, entry.columns.get(column, ()))]  # fmt: skip
    name = f"table_{layout.name}__{content_hash(keys)[:8]}"
    path = experiment.root.results / experiment.plan.group / f"{name}.md"
    markdown = _markdown(experiment, layout, rows)
    write_text(path, markdown)
    write_text(path.with_suffix(".csv"), _csv(layout, rows))
    words = verdicts(layout, rows)
    write_json(path.with_suffix(".json"), [_row_without_cases(row, words[row.target]) for row in rows])
    return Table(path, markdown, rows, layout)


def _row(layout: Layout, entry: Entry) -> Row:
    found: dict[str, list[AnySummary | None]] = {column: [] for column in layout.columns}
    folders: dict[str, tuple[str, ...]] = {}
    checks: dict[str, dict[str, float | bool | str]] = {}
    updates: dict[str, tuple[int, ...]] = {}
    part = VALIDATION
    for column, replicates in entry.columns.items():
        for trained in replicates:
            if trained is None or not is_finished(trained[0].root, trained[1]):
                found[column].append(None)
                continue
            experiment, job = trained
            part = TEST if experiment.splits[entry.target].test else VALIDATION
            run = RunFolder(experiment.root.results / job.folder)
            dataset = entry.target if job.stage == "multi_head" else None
            summary = read_summary(run, part, dataset, experiment.plan.task)
            found[column].append(summary)
            if summary is not None:
                folders[column] = (*folders.get(column, ()), job.folder)
                trained_for = read_record(run.finished, Finished, TrainingError).updates
                updates[column] = (*updates.get(column, ()), trained_for)
            if (run.folder / "checks.json").is_file():
                checks.setdefault(column, read_json(run.folder / "checks.json"))
    comparisons = {}
    for name, (column, reference) in layout.contrasts.items():
        pairs = [(a, b) for a, b in zip(found[column], found[reference], strict=False) if a and b]
        if pairs:
            binary = layout.scale.right_or_wrong
            comparisons[name] = compare([a for a, _ in pairs], [b for _, b in pairs], binary)
    return Row(
        target=entry.target, sources=entry.sources, part=part, folders=folders, checks=checks, comparisons=comparisons,
        summaries={column: tuple(filter(None, found[column])) for column in layout.columns if any(found[column])},
        updates=updates,
    )  # fmt: skip


def compare(
    ours: Sequence[AnySummary], theirs: Sequence[AnySummary], right_or_wrong: bool = False
) -> Comparison:
    """Paired comparison over patients (cases where no patient has several), by replicate: DSC, classes averaged;
    F1 of boxes (without a true box 1 or 0); or right answers (``right_or_wrong``), whose test is McNemar's for one
    replicate of units that are wholly right or wrong."""
    scores = [[summary.score_by_unit() for summary in side] for side in (ours, theirs)]
    units = sorted(set.union(*(set(a) & set(b) for a, b in zip(*scores, strict=True))))
    a, b = ([[replicate.get(unit) for unit in units] for replicate in side] for side in scores)
    comparison = replicated_comparison(a, b)
    if right_or_wrong and len(ours) == 1 and set(a[0] + b[0]) <= {0.0, 1.0}:
        p_value = mcnemar([bool(score) for score in a[0]], [bool(score) for score in b[0]])
        note = "" if p_value is not None else "no test: both are right and wrong on the same cases"
        return msgspec.structs.replace(comparison, p_value=p_value, note=note, test="McNemar")
    return comparison


# --- verdicts -------------------------------------------------------------------------------------------------------


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
    return [name for name, (column, reference) in layout.contrasts.items()
            if column in row.summaries and (name in layout.references or reference in row.summaries)]  # fmt: skip


def verdict(
    layout: Layout, name: str, comparison: Comparison | None, adjusted_p: float | None, failed: bool = False
) -> str:
    """What a comparison says, in words. ``adjusted_p``: Holm, over the table. ``failed``: neither model is of use."""
    if comparison is None or comparison.mean_difference is None:
        return "not evaluable: no case is evaluable in both columns"
    points = 100 * comparison.mean_difference
    column, reference = layout.contrasts[name]
    words = f"{column} {points:+.1f} points {layout.scale.judged} against {reference} (n={comparison.pairs}"
    if comparison.replicates > 1 and comparison.spread is not None:
        words += f", {comparison.replicates} replicates that differ by {100 * comparison.spread:.1f}"
    if comparison.interval is not None:
        words += f", 95 % interval {100 * comparison.interval[0]:+.1f} to {100 * comparison.interval[1]:+.1f}"
    tested = f", {comparison.test} p={adjusted_p:.3f} after Holm)" if adjusted_p is not None else None
    words += tested or f"; {comparison.note})"
    if failed:
        return f"{words}: no verdict, {_failure(layout.scale)}; train longer, or look at the data"
    significant = (
        adjusted_p is not None and adjusted_p < SIGNIFICANCE and comparison.interval is not None
        and comparison.interval[0] * comparison.interval[1] > 0
    )  # fmt: skip
    if significant:
        return f"{words}: {layout.answers_of(name)[0 if points > 0 else 1]}"
    if not comparison.detectable:  # None, or differences that are all alike and say nothing of what could be shown
        return f"{words}: {layout.undecided}"
    words = f"{words}: {layout.undecided}; such data show differences from {100 * comparison.detectable:.1f} points on"
    if comparison.replicates == 1 or comparison.detectable <= WANTED_GAIN:
        return words
    needed = comparison.replicates_needed
    takes = "more patients, whatever the number of replicates" if needed is None else f"{needed} replicates"
    return f"{words} ({100 * WANTED_GAIN:g} points would take {takes})"


def _failure(scale: Scale) -> str:
    if not scale.found_by:
        return f"both find next to nothing (below {100 * scale.nothing:g} % {scale.judged})"
    return f"both hardly do better than chance ({100 * scale.nothing:g} points {scale.quick})"


# --- writing --------------------------------------------------------------------------------------------------------


def _markdown(experiment: Experiment, layout: Layout, rows: Sequence[Row]) -> str:
    most = max(len(summaries) for row in rows for summaries in row.summaries.values())
    spread = " Behind ± the standard deviation of the replicates' means." if most > 1 else ""
    lines = [
        f"# {layout.title}",
        "",
        f"{_budget(experiment.settings, layout, rows)} Means over images; {layout.scale.note}{spread}",
    ]
    for metric in layout.scale.metrics:
        lines += ["", *_metric_table(layout, rows, metric, per_volume=False)]
    if any(one.overall(per_patient=True) for row in rows for some in row.summaries.values() for one in some):
        lines += ["", "## Per volume: the images of a patient together"]
        for metric in layout.scale.per_patient:
            lines += ["", *_metric_table(layout, rows, metric, per_volume=True)]
    lines += ["", f"## {layout.question}", ""]
    words = verdicts(layout, rows)
    said: list[str] = []
    further: list[str] = []
    for row in rows:
        for name, text in words[row.target].items():
            (said if name in layout.references else further).append(f"- {row.target} ({row.part}): {text}.")
    lines += said
    if any(text.endswith(f"{HELPED}.") for text in said):
        lines += ["", WHOSE_GAIN]
    if further:
        lines += ["", f"## {layout.further_question}", "", *further, "", layout.further_reading]
    tested = sum(comparison.p_value is not None for row in rows for comparison in row.comparisons.values())
    if tested > 1:
        lines += ["", f"p after Holm: adjusted for all {tested} tests of this table."]
    if most == 1:
        lines += ["", "One run with one seed: differences of a few points can be chance."]
    if any(row.checks for row in rows):
        lines += ["", "## Checks", ""]
        lines += [f"- {row.target}: {_checks(row)}" for row in rows]
    lines += ["", "## Runs", ""]
    lines += [f"- {row.target}, {column}: `{folder}`"
              for row in rows for column, folders in row.folders.items() for folder in folders]  # fmt: skip
    return "\n".join(lines) + "\n"


def _budget(settings: Settings, layout: Layout, rows: Sequence[Row]) -> str:
    """The updates allowed and, where not all trainings had as many, those that each column had."""
    words = (
        f"Seed {settings.seed}, at most {settings.epochs} epochs of {settings.iterations_per_epoch} updates for every "
        "column."
    )
    had = {column: sorted({count for row in rows for count in row.updates.get(column, ())})
           for column in layout.columns}  # fmt: skip
    if len(set().union(*had.values())) < 2:
        return words
    ranges = [f"{column} {counts[0]:,}{f' to {counts[-1]:,}' if len(counts) > 1 else ''}"
              for column, counts in had.items() if counts]  # fmt: skip
    return f"{words} Updates trained: {', '.join(ranges)}."


def _metric_table(layout: Layout, rows: Sequence[Row], metric: str, per_volume: bool) -> list[str]:
    units = {summary.unit for row in rows for some in row.summaries.values() for summary in some}
    scale = layout.scale
    title = f"HD95 ({' or '.join(sorted(units))})" if metric == "hd95" else scale.titles[metric]
    columns = layout.columns
    lines = [f"**{title}{' per patient' if per_volume else ''}**", "", "| target | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row in rows:
        cells = [_cell(_means_of(row, column, per_volume), metric, metric in scale.in_percent) for column in columns]
        unit = next((some[0].unit for some in row.summaries.values() if metric == "hd95" and len(units) > 1), "")
        lines.append(f"| {row.target}{f' ({unit})' if unit else ''} | " + " | ".join(cells) + " |")
    if metric == "hd95" and len(units) > 1:
        return lines  # millimetres and pixels have no mean
    factor = 100 if metric in scale.in_percent else 1
    means = []
    for column in columns:
        values = [np.mean(numbers) for row in rows if (numbers := _values(_means_of(row, column, per_volume), metric))]
        means.append(f"{factor * float(np.mean(values)):.1f} ({len(values)} targets)" if values else "-")
    lines.append("| mean | " + " | ".join(means) + " |")
    return lines


def _means_of(row: Row, column: str, per_volume: bool) -> list[Mean]:
    """One a replicate."""
    some = row.summaries.get(column, ())
    means = [summary.overall(per_volume) for summary in some]
    return [mean for mean in means if mean is not None]


def judged_scores(row: Row, column: str, scale: Scale) -> list[float]:
    """The judged score of a column, mean over images, one a replicate in which it is evaluable."""
    return _values(_means_of(row, column, per_volume=False), scale.metrics[0])


def _found_scores(row: Row, column: str, scale: Scale) -> list[float]:
    """What a column found, above chance, one a replicate in which it is evaluable."""
    chance = max((scale.chance(summary) for summary in row.summaries.get(column, ())), default=0.0)
    metric = scale.found_by or scale.metrics[0]
    return [value - chance for value in _values(_means_of(row, column, per_volume=False), metric)]


def _values(means: Sequence[Mean], metric: str) -> list[float]:
    return [value for mean in means if (value := mean.metrics[metric].mean) is not None]


def _cell(means: Sequence[Mean], metric: str, in_percent: bool) -> str:
    """71.2 ± 0.8 (n=20), or a dash where nothing is evaluable; no ± for one replicate."""
    values = _values(means, metric)
    if not values:
        return "-"
    factor, digits = (100, 1) if in_percent else (1, 2)
    spread = f" ± {factor * float(np.std(values, ddof=1)):.{digits}f}" if len(values) > 1 else ""
    counts = sorted({mean.metrics[metric].evaluable for mean in means if mean.metrics[metric].mean is not None})
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{factor * float(np.mean(values)):.{digits}f}{spread} (n={shown})"


def _checks(row: Row) -> str:
    """Of every joint teacher and student of a target."""
    words = []
    for column, check in row.checks.items():
        name = f"the {column}" if column in COLUMNS else column
        if "uses_sources" in check:
            does = "uses" if check["uses_sources"] else "IGNORES"
            words.append(f"{name} {does} its sources (silencing them changes its output by "
                         f"{100 * float(check['output_change']):.1f} %)")  # fmt: skip
        if "distilled" in check:
            is_ = "is" if check["distilled"] else "is NOT"
            share = 100 * float(check["explained"])
            words.append(f"{name} {is_} distilled (it explains {share:.0f} % of the joint teacher's feature maps)")
    return "; ".join(words) or "none"


def _csv(layout: Layout, rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["target", "part", "level", "column", "run", "metric", "unit", "mean", "std", "n", "left_out"])
    for row in rows:
        for column in layout.columns:
            for run, summary in zip(row.folders.get(column, ()), row.summaries.get(column, ()), strict=True):
                levels = (("image", summary.overall(False)), ("patient", summary.overall(True)))
                for level, mean in levels:
                    for metric in layout.scale.metrics if mean is not None else ():
                        value = mean.metrics[metric]  # type: ignore[union-attr]
                        unit = summary.unit if metric == "hd95" else ""
                        writer.writerow([row.target, row.part, level, column, run, metric, unit, value.mean, value.std,
                                         value.evaluable, value.left_out])  # fmt: skip
    return text.getvalue()


def _row_without_cases(row: Row, words: dict[str, str]) -> dict[str, object]:
    """The row as JSON; the cases stand in the runs' own summaries."""
    return {
        "target": row.target, "sources": row.sources, "part": row.part, "folders": row.folders, "checks": row.checks,
        "comparisons": row.comparisons, "verdicts": words, "updates": row.updates,
        "means": {column: [summary.overall(False) for summary in some] for column, some in row.summaries.items()},
    }  # fmt: skip
