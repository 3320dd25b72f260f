"""The table of a group and its picture, from runs whose masks and scores are made by hand."""

import csv
import json
import shutil
from collections.abc import Callable

import msgspec
import nibabel as nib
import numpy as np
import pytest

from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.records import Case
from mdkd_auto.core.settings import Settings
from mdkd_auto.execution.evaluate_run import cases_of_part
from mdkd_auto.execution.run_folder import Finished
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.metrics.statistics import Comparison, replicated_comparison
from mdkd_auto.metrics.summary import Scores, score_masks
from mdkd_auto.report.comparison import COLUMNS, Contrast, Layout, Row, compare
from mdkd_auto.report.table_markdown import checks_text, table_markdown
from mdkd_auto.report.tables import permutation_table
from mdkd_auto.report.verdicts import ONE_TRAINING, judge, verdict_text, verdicts
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.classification.scoring import Answer, ClassSummary, summary_of_answers
from mdkd_auto.tasks.detection.scoring import BoxAnswer, BoxSummary, Corners, summary_of_boxes
from mdkd_auto.tasks.segmentation.scoring import CaseScores, Summary, summary_of, write_summary
from mdkd_auto.tasks.shared.scored_part import TEST
from mdkd_auto.tasks.task_scores import TASK_SCORES

GOOD, POOR = 1.0, 0.5  # DSC
DICE = {"multi_head": POOR, "teacher": POOR, "joint_teacher": GOOD, "student": GOOD}
LAYOUT = Layout(title="", name="", columns=COLUMNS, references={"student": "data-set-specific"}, question="")
FINISHED = Finished(
    updates=6,
    seconds=1.0,
    seconds_per_update=0.1,
    best_validation_loss=1.0,
    best_validation_score=0.5,
    validation_share=0.1,
    parts=1,
)


def paired_comparison(a: list[float | None], b: list[float | None]) -> Comparison:
    """Of one replicate."""
    return replicated_comparison([a], [b])


def text_of(layout: Layout, name: str, comparison: Comparison, p_value: float | None, failed: bool = False) -> str:
    return verdict_text(judge(layout, name, comparison, p_value, failed), layout, name)


def scores_of(dice: float | None) -> Scores:
    """Scores of two squares of 4 x 4 pixels that overlap so much; None: both empty."""
    truth, mask = np.zeros((12, 12), dtype=bool), np.zeros((12, 12), dtype=bool)
    if dice is not None:
        shift = round(4 * (1 - dice))
        truth[4:8, 4:8] = True
        mask[4:8, 4 + shift : 8 + shift] = True
    return score_masks(mask, truth, (1.0, 1.0))


def finish(experiment: Experiment, job: Job, unit: str = "mm", scale: float = 1.0, updates: int = 6) -> None:
    """The test scores of a finished run, ``scale`` times the usual ones, and masks equal to the truth."""
    run = RunFolder(experiment.root.results / job.folder)
    for dataset in job.datasets if job.stage == "multi_head" else (job.target,):
        cases = cases_of_part(experiment, dataset, TEST)
        folder = run.masks(TEST, dataset if job.stage == "multi_head" else None)
        folder.mkdir(parents=True)
        scores = []
        for case in cases:
            label = nib.load(str(case.label))
            nib.save(label, folder / f"{case.case_id}.nii.gz")
            scores.append(CaseScores(case_id=case.case_id, metrics={"foreground": scores_of(scale * DICE[job.stage])}))
        write_summary(folder, summary_of(scores, cases, dataset, TEST, unit, {}))
    write_json(run.finished, msgspec.structs.replace(FINISHED, updates=updates))


@pytest.fixture
def jobs_in() -> Callable[[Experiment], list[Job]]:
    return lambda experiment: JobMaker(experiment).all_permutations(tuple(experiment.datasets))


@pytest.fixture
def experiment(planned: Root, copied: Callable[[Root], Root], experiment_in: Callable[..., Experiment]) -> Experiment:
    made: Experiment = experiment_in(copied(planned))
    return made


def section(markdown: str, title: str) -> list[str]:
    """The lines of one metric's table."""
    after = markdown.split(f"**{title}**", 1)[1].strip().splitlines()
    return after[: next((number for number, line in enumerate(after) if not line.startswith("|")), len(after))]


def test_table_of_all_targets(experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]]) -> None:
    jobs = jobs_in(experiment)
    assert permutation_table([(experiment, jobs)]) is None
    for job in jobs:
        if job.stage != "source_teacher":
            finish(experiment, job)
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    assert table.path.read_text() == table.markdown
    head, _, *rows, mean = section(table.markdown, "DSC (%)")
    assert head == "| target | multi-head | data-set-specific | joint teacher | student |"
    assert rows == [f"| {name} | 50.0 (n=1) | 50.0 (n=1) | 100.0 (n=1) | 100.0 (n=1) |" for name in experiment.datasets]
    assert mean == "| mean | 50.0 (3 targets) | 50.0 (3 targets) | 100.0 (3 targets) | 100.0 (3 targets) |"
    assert section(table.markdown, "HD95 (mm)")[-1].startswith("| mean | 2.0 (3 targets) |")
    for name in experiment.datasets:
        assert f"- {name} (test): student +50.0 points DSC against data-set-specific (n=1" in table.markdown
    assert table.markdown.count("no evidence that the other data sets helped or hurt") == 3

    cells = list(csv.DictReader(table.path.with_suffix(".csv").read_text().splitlines()))
    dice = {(row["target"], row["column"]): float(row["mean"]) for row in cells if row["metric"] == "dice"}
    assert set(dice) == {(name, column) for name in experiment.datasets for column in COLUMNS}
    assert {row["unit"] for row in cells if row["metric"] == "hd95"} == {"mm"}
    stored = json.loads(table.path.with_suffix(".json").read_text())
    assert [row["target"] for row in stored] == list(experiment.datasets)
    assert all("no evidence" in row["verdicts"]["student"] for row in stored)


def test_the_table_says_what_was_allowed_and_where_training_stopped(
    experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]]
) -> None:
    jobs = [job for job in jobs_in(experiment) if job.stage in ("student", "teacher")]
    for job in jobs:
        finish(experiment, job)
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    allowed = "Seed 0, at most 300 epochs of 250 updates for every column."
    assert f"{allowed} Means over images" in table.markdown  # all trained for 6
    for job, updates in zip((job for job in jobs if job.stage == "teacher"), (75000, 500, 1250), strict=True):
        shutil.rmtree(experiment.root.results / job.folder)
        finish(experiment, job, updates=updates)
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    assert f"{allowed} Updates trained: data-set-specific 500 to 75,000, student 6. Means" in table.markdown
    stored = json.loads(table.path.with_suffix(".json").read_text())
    assert stored[0]["updates"] == {"data-set-specific": [75000], "student": [6]}


def test_a_multi_head_model_of_a_fold_that_the_target_lacks_is_no_replicate(
    experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]]
) -> None:
    """Even where it was scored on the target."""
    lacking = "Dataset902_FlatFaint"
    short = msgspec.structs.replace(experiment.splits[lacking], folds=experiment.splits[lacking].folds[:1])
    replicates = []
    for fold in (0, 1):
        own = experiment._replace(
            splits={**experiment.splits, lacking: short}, settings=Settings(device="cpu", fold=fold)
        )
        replicates.append((own, jobs_in(own)))
        for job in replicates[-1][1]:
            if job.stage != "source_teacher":
                finish(own, job)
    table = permutation_table(replicates)
    assert table is not None
    counts = {row.target: {len(row.summaries[column]) for column in COLUMNS} for row in table.rows}
    assert counts == {name: {1 if name == lacking else 2} for name in experiment.datasets}
    assert {row.target: row.comparisons["student"].replicates for row in table.rows}[lacking] == 1


def test_a_target_whose_student_is_not_done_has_no_row(
    experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]]
) -> None:
    jobs = jobs_in(experiment)
    first = next(iter(experiment.datasets))
    for job in jobs:
        if job.target == first and job.stage in ("student", "joint_teacher"):
            finish(experiment, job)
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    assert [row.target for row in table.rows] == [first]
    assert f"| {first} | - | - | 100.0 (n=1) | 100.0 (n=1) |" in table.markdown
    assert f"- {first} (test): not evaluable" in table.markdown


def test_millimetres_and_pixels_have_no_mean(
    experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]]
) -> None:
    jobs = jobs_in(experiment)
    first = next(iter(experiment.datasets))
    for job in jobs:
        if job.stage in ("student", "teacher"):
            finish(experiment, job, unit="px" if job.target == first else "mm")
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    lines = section(table.markdown, "HD95 (mm or px)")
    assert lines[2].startswith(f"| {first} (px) |")
    assert len(lines) == 2 + 3
    assert not any(line.startswith("| mean") for line in lines)
    assert section(table.markdown, "DSC (%)")[-1].startswith("| mean |")


def test_false_alarms_on_patients_without_a_box_count() -> None:
    """12 patients with a box that both find, 10 without: a model that fires on each of these is worse."""
    box: Corners = (0, 0, 10, 10)

    def boxes(alarms: int) -> BoxSummary:
        some = [
            BoxAnswer(
                case_id=f"{number}",
                patient_id=f"{number}",
                truth=(box,) * (number < 12),
                truth_classes=(0,) * (number < 12),
                detected=(box,) * (number < 12 + alarms),
                detected_classes=(0,) * (number < 12 + alarms),
                scores=(0.9,) * (number < 12 + alarms),
            )
            for number in range(22)
        ]
        return summary_of_boxes(some, ("nodule",), "Dataset031_Chests", TEST, 0.5, {})

    quiet, loud = boxes(0), boxes(10)
    found = compare([loud], [quiet])
    assert (found.pairs, found.left_out) == (22, 0)
    assert found.mean_difference == pytest.approx(-10 / 22)
    layout = LAYOUT._replace(scale=TASK_SCORES["detection"].scale)
    said = text_of(layout, "student", found, found.p_value)
    assert said.startswith("student -45.5 points F1 against data-set-specific (n=22")
    assert said.endswith(f": the other data sets hurt ({ONE_TRAINING})")
    assert compare([quiet], [loud]).mean_difference == pytest.approx(10 / 22)
    assert compare([loud], [loud]).mean_difference == 0
    assert [one.scores.metrics["f1"].mean for one in (quiet, loud)] == [1, pytest.approx(24 / 34)]  # pooled, as ever


def test_no_verdict_between_models_that_find_nothing(
    experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]]
) -> None:
    """However significant the difference of 1 and 4 % is."""
    comparison = paired_comparison([0.04 + 0.001 * number for number in range(20)], [0.01] * 20)
    said = text_of(LAYOUT, "student", comparison, comparison.p_value)
    assert said.endswith(f": the other data sets helped ({ONE_TRAINING})")
    said = text_of(LAYOUT, "student", comparison, comparison.p_value, failed=True)
    assert said.endswith(": no verdict, both score below 10 % DSC; train longer, or check the data")
    jobs = jobs_in(experiment)
    first, second, _ = experiment.datasets
    for job in jobs:
        if job.stage in ("student", "teacher"):
            finish(experiment, job, scale=0.1 if job.target == first else 1.0)
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    lines = {
        name: next(line for line in table.markdown.splitlines() if line.startswith(f"- {name} (test): student"))
        for name in (first, second)
    }
    assert "no verdict, both score below 10 % DSC" in lines[first]
    assert "no verdict" not in lines[second]


@pytest.mark.parametrize(("right", "failed"), [((10, 0), True), ((5, 5), True), ((6, 6), False), ((10, 8), False)])
def test_no_verdict_between_classifiers_that_guess(right: tuple[int, int], failed: bool) -> None:
    """Ten cases of one class and ten of another, so many right; the other model always says the second class."""

    def answered(*numbers: int) -> ClassSummary:
        answers = [
            Answer(
                case_id=f"{truth}_{number}",
                patient_id=f"{truth}_{number}",
                truth=truth,
                logits=(0.0, 1.0) if (number < numbers[truth]) == bool(truth) else (1.0, 0.0),
            )
            for truth in (0, 1)
            for number in range(10)
        ]
        return summary_of_answers(answers, ("well", "sick"), "Dataset021_Toy", TEST, 1.0, {})

    ours, theirs = answered(*right), answered(0, 10)
    row = Row(
        target="Dataset021_Toy",
        sources=(),
        part=TEST,
        folders={},
        checks={},
        summaries={"student": (ours,), "data-set-specific": (theirs,)},
        comparisons={"student": compare([ours], [theirs], right_or_wrong=True)},
    )
    layout = LAYOUT._replace(scale=TASK_SCORES["classification"].scale)
    verdict = verdicts(layout, [row])["Dataset021_Toy"]["student"]
    assert (verdict.outcome == "both_fail") == failed
    said = verdict_text(verdict, layout, "student")
    words = "no verdict, both are within 5 points of chance (balanced accuracy); train longer"
    assert (words in said) == failed


def summary(dice: dict[str, float | None]) -> Summary:
    """Of cases that are patients of their own."""
    cases = [Case(case_id=name, images=(), patient_id=name) for name in dice]
    scores = [CaseScores(case_id=name, metrics={"foreground": scores_of(value)}) for name, value in dice.items()]
    return summary_of(scores, cases, "Dataset011_Toy", TEST, "mm", {})


def test_a_gain_points_to_the_controls(
    experiment: Experiment, jobs_in: Callable[[Experiment], list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_in(experiment)
    for job in jobs:
        if job.stage in ("student", "teacher"):
            finish(experiment, job)
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    assert "mdkd_ablate controls" not in table.markdown
    monkeypatch.setattr("mdkd_auto.report.verdicts._outcome", lambda *_: "helped")
    table = permutation_table([(experiment, jobs)])
    assert table is not None
    assert "rather than from longer training: `mdkd_ablate controls`" in table.markdown
    stored = json.loads(table.path.with_suffix(".json").read_text())
    assert [row["outcomes"] for row in stored] == [{"student": "helped"}] * 3


def test_further_comparisons(experiment: Experiment) -> None:
    """Below the others, in their own words, and all of one family; without the columns that a target lacks."""

    def some(shift: float) -> Summary:
        return summary({f"case {number}": 0.25 + shift * (number % 4 != 0) for number in range(12)})

    layout = Layout(
        title="",
        name="",
        columns=("specific", "student", "self-distilled", "fine-tuned"),
        references={"student": "specific"},
        question="Does it?",
        answers=("better", "worse"),
        further=(Contrast("student", "self-distilled"), Contrast("student", "fine-tuned"), Contrast("student", "none")),
        further_question="Whose?",
        further_reading="The reading.",
    )
    columns = {"specific": some(0.25), "student": some(0.5), "self-distilled": some(0.25), "fine-tuned": some(0.75)}
    row = Row(
        target="A",
        sources=(),
        part=TEST,
        folders={},
        checks={},
        summaries={column: (one,) for column, one in columns.items()},
        comparisons={
            name: compare([columns[column]], [columns[reference]])
            for name, (column, reference) in layout.contrasts.items()
            if reference in columns
        },
    )
    judged = verdicts(layout, [row])["A"]
    assert [verdict.outcome for verdict in judged.values()] == ["helped", "helped", "hurt"]
    words = {name: verdict_text(verdict, layout, name) for name, verdict in judged.items()}
    assert list(words) == ["student", "student against self-distilled", "student against fine-tuned"]
    p = row.comparisons["student"].p_value
    assert p is not None
    for name, end in zip(
        words, ("better", "student is ahead of self-distilled", "student is behind fine-tuned"), strict=True
    ):
        assert words[name].endswith(f"Wilcoxon p={3 * p:.3f} after Holm): {end} ({ONE_TRAINING})")
        assert "other data sets" not in words[name]
    markdown = table_markdown(experiment.settings, layout, [row], {"A": judged})
    judged, asked = markdown.split("## Does it?")[1].split("## Whose?")
    assert [judged.count("- A (test): "), asked.count("- A (test): student ")] == [1, 2]
    assert "\n\nThe reading.\n\np after Holm: adjusted for all 3 tests of this table.\n" in asked


def test_every_students_check_is_said() -> None:
    """Under its column's name, in ablations too: a column that is not distilled says nothing of distillation."""
    checks: dict[str, dict[str, float | bool | str]] = {
        "joint teacher": {"output_change": 0.25, "uses_sources": True},
        "student": {"explained": 0.5, "distilled": True},
        "late-1": {"explained": 0.02, "distilled": False},
    }
    row = Row(target="A", sources=(), part=TEST, folders={}, checks=checks, comparisons={}, summaries={})
    assert checks_text(row) == (
        "the joint teacher uses its sources (silencing them changes its output by 25.0 %); "
        "the student is distilled (it explains 50 % of the joint teacher's feature maps); "
        "late-1 is NOT distilled (it explains 2 % of the joint teacher's feature maps)"
    )


def test_only_shared_cases_are_compared() -> None:
    ours = summary({"a": 1.0, "b": 0.5, "c": None, "only ours": 1.0})
    theirs = summary({"a": 0.5, "b": 0.5, "c": None})
    compared = compare([ours], [theirs])
    assert (compared.pairs, compared.left_out) == (3, 1)  # nothing found where nothing is, by both: no difference
    assert compared.mean_difference == pytest.approx(0.5 / 3)


def answers_of(right: list[bool], images: int = 1) -> ClassSummary:
    """Of patients, each with so many images, whose first is answered as ``right`` says, and the others rightly."""
    answers = [
        Answer(
            case_id=f"{patient}_{image}",
            patient_id=str(patient),
            truth=0,
            logits=(1.0, 0.0) if well or image else (0.0, 1.0),
        )
        for patient, well in enumerate(right)
        for image in range(images)
    ]
    return summary_of_answers(answers, ("normal", "pneumonia"), "Dataset021_Chests", TEST, 1.0, {})


@pytest.mark.parametrize(("images", "replicates", "test"), [(1, 1, "McNemar"), (2, 1, "Wilcoxon"), (1, 2, "Wilcoxon")])
def test_the_verdict_names_the_test_that_was_made(images: int, replicates: int, test: str) -> None:
    ours, theirs = answers_of([True] * 16, images), answers_of([True] * 8 + [False] * 8, images)
    comparison = compare([ours] * replicates, [theirs] * replicates, right_or_wrong=True)
    layout = LAYOUT._replace(scale=TASK_SCORES["classification"].scale)
    said = text_of(layout, "student", comparison, comparison.p_value)
    p_value = 2 / 2**8  # of 8 patients all for ours, exact in either test
    assert comparison.p_value == pytest.approx(p_value)
    assert f", {test} p={p_value:.3f} after Holm)" in said


def test_replicates_are_one_column(
    planned: Root,
    copied: Callable[[Root], Root],
    experiment_in: Callable[..., Experiment],
    jobs_in: Callable[[Experiment], list[Job]],
) -> None:
    root = copied(planned)
    experiments = [experiment_in(root, Settings(device="cpu", seed=seed)) for seed in (0, 1, 2)]
    replicates = [(experiment, jobs_in(experiment)) for experiment in experiments]
    for experiment, jobs in replicates[:2]:  # the third is not done yet
        for job in jobs:
            if job.stage in ("teacher", "student") or (job.stage == "joint_teacher" and experiment is experiments[0]):
                finish(experiment, job)
    table = permutation_table(replicates)
    assert table is not None
    assert table.path.name.startswith("table_2d_fold_0_3_seeds__")
    first = next(iter(experiments[0].datasets))
    joint = "100.0 (n=1, 1 of 2 replicates)"
    assert f"| {first} | - | 50.0 ± 0.0 (n=1) | {joint} | 100.0 ± 0.0 (n=1) |" in table.markdown
    assert f"- {first} (test): student +50.0 points DSC" in table.markdown
    assert "2 replicates with SD 0.0" in table.markdown
    assert [len(row.folders["student"]) for row in table.rows] == [2, 2, 2]
