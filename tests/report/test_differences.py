"""Figures of comparisons: what stands where, on numbers made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.execution.evaluate_run import cases_of_part
from mdkd_auto.execution.run_folder import Finished, describe
from mdkd_auto.experiments.ablations import ABLATIONS
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.metrics.statistics import Comparison
from mdkd_auto.metrics.summary import score_masks
from mdkd_auto.report import ablation as ablation_module
from mdkd_auto.report.ablation import Study, Trainings, ablation_entry, ablation_table
from mdkd_auto.report.comparison import Layout, Row
from mdkd_auto.report.differences import differences, draw_differences, gain_by_labels
from mdkd_auto.report.figures import draw_ablation
from mdkd_auto.report.tables import Table
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.segmentation.scoring import CaseScores, summary_of, write_summary
from mdkd_auto.tasks.shared.scored_part import TEST

A = "Dataset901_RoundBright"
FINISHED = Finished(
    updates=6,
    seconds=1.0,
    seconds_per_update=0.1,
    best_validation_loss=1.0,
    best_validation_score=0.5,
    validation_share=0.1,
    parts=1,
)


def comparison(mean: float | None, interval: tuple[float, float] | None) -> Comparison:
    return Comparison(pairs=7, left_out=0, mean_difference=mean, interval=interval, p_value=None, note="")


def table_of(comparisons: dict[str, Comparison]) -> Table:
    row = Row(target=A, sources=(), part=TEST, summaries={}, folders={}, checks={}, comparisons=comparisons)
    references = {"student": "specific", "other": "specific", "small": "small specific"}
    layout = Layout(title="", name="", columns=(), references=references, question="")
    return Table(Path("table.md"), "", (row,), layout)


def test_a_line_for_each_compared_column() -> None:
    figure = differences(
        table_of(
            {
                "student": comparison(0.02, (-0.01, 0.05)),
                "other": comparison(None, None),
                "small": comparison(-0.03, None),
            }
        )
    )
    (axes,) = figure.axes
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert drawn[0] == ([pytest.approx(-1), pytest.approx(5)], [0, 0])
    assert drawn[1] == ([pytest.approx(2)], [0])
    assert drawn[2] == ([pytest.approx(-3)], [1])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["student\nagainst specific", "small\nagainst small specific"]
    assert axes.get_title() == f"{A} (n=7)"


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(MdkdError, match="no two columns share an evaluable case"):
        draw_differences(tmp_path / "differences.png", table_of({"student": comparison(None, None)}))
    assert list(tmp_path.iterdir()) == []


def finish(experiment: Experiment, job: Job, dice: float) -> None:
    """A run with these test scores, without weights."""
    run = RunFolder(experiment.root.results / job.folder)
    write_json(run.description, describe(experiment, job))
    truth, mask = np.zeros((12, 12), dtype=bool), np.zeros((12, 12), dtype=bool)
    shift = round(4 * (1 - dice))
    truth[4:8, 4:8] = mask[4:8, 4 + shift : 8 + shift] = True
    scores = score_masks(mask, truth, (1.0, 1.0))
    cases = cases_of_part(experiment, A, TEST)
    made = [CaseScores(case_id=case.case_id, metrics={"foreground": scores}) for case in cases]
    write_summary(run.masks(TEST, None), summary_of(made, cases, A, TEST, "mm", {}))
    write_json(run.finished, FINISHED)


def test_gain_over_the_number_of_labelled_patients(
    planned: Root,
    copied: Callable[[Root], Root],
    experiment_in: Callable[..., Experiment],
    caplog: pytest.LogCaptureFixture,
) -> None:
    experiment = experiment_in(copied(planned))
    ablation = ABLATIONS["labels"]
    entry = ablation_entry(ablation, [experiment], A)
    shares = [f"{model}, {share} labels" for share in ("10%", "100%") for model in ("data-set-specific", "student")]
    assert list(entry.trainings) == shares  # a tenth and a quarter are one patient
    for dice, ((own, jobs),) in zip((0.25, 0.75, 0.75, 0.5), entry.trainings.values(), strict=True):
        finish(own, jobs[-1], dice)
    table = ablation_table(Study("labels", ablation, [experiment], [entry]))
    assert table is not None
    assert "25%" not in table.markdown
    scores, gains = gain_by_labels(experiment, table).axes
    every = len(experiment.cases(A, "train"))
    assert every > 1
    assert list(gains.lines[0].get_xdata()) == [1, every]
    assert list(gains.lines[0].get_ydata()) == [pytest.approx(50), pytest.approx(-25)]
    (alone,) = [line for line in scores.lines if line.get_linestyle() == "--"]
    assert list(alone.get_ydata()) == [pytest.approx(25), pytest.approx(75)]

    folder = draw_ablation("labels", experiment, table)
    assert folder.name.startswith("figures_labels_2d_fold_0__")
    assert {path.name for path in folder.iterdir()} == {"differences.png", "gain_by_labels.png", "figures.json"}
    assert f"{A}: the figure learning is left out: " in caplog.text


def test_shares_stand_in_order_where_the_first_target_lacks_one(
    planned: Root, experiment_in: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, ablation = experiment_in(planned), ABLATIONS["labels"]
    every: dict[str, Any] = {variant.column: [] for variant in ablation.variants(("another",))}
    few = {column: some for column, some in every.items() if "25%" not in column}
    layouts: list[Layout] = []
    monkeypatch.setattr(ablation_module, "write_table", lambda _, layout, __: layouts.append(layout))
    for entries in ([few, every], [few]):
        ablation_table(Study("labels", ablation, [experiment], [Trainings(A, ("another",), one) for one in entries]))
    assert layouts[0].columns == tuple(every)
    assert list(layouts[0].references) == [column for column in every if column.startswith("student")]
    assert layouts[1].columns == tuple(few)
    assert list(layouts[1].references) == [column for column in few if column.startswith("student")]
