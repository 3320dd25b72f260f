"""A fourth task through the whole chain: an image shows any number of findings. It is this file and seven entries.

docs/extending.md points here. Head, fusion and metric are the house's own; loss, score, reader and answers are below.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from sklearn.metrics import f1_score
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.cli import doctor, evaluate, plan_and_preprocess, predict, train_all_permutations
from mdkd_auto.core.files import content_hash, read_json, read_record, write_json, write_text
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Case, ConfigurationPlan, Dataset, DatasetPlan, Record
from mdkd_auto.core.settings import TASK_SETTINGS, TaskSettings
from mdkd_auto.datasets.cases_csv import read_case_table
from mdkd_auto.datasets.dataset_json import Description, Labels, TaskData, class_labels
from mdkd_auto.datasets.image_files import ImageFiles
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.formats.read_write import Image
from mdkd_auto.metrics.summary import Mean, MetricMean
from mdkd_auto.networks.classifier import ClassifierHead
from mdkd_auto.networks.model import Encoder
from mdkd_auto.planners.classification import class_counts, plan_classification
from mdkd_auto.planners.task_rules import TASK_RULES, TaskRules
from mdkd_auto.prediction import TASK_ANSWERS, Asked, each
from mdkd_auto.preparation import Outcome
from mdkd_auto.preprocessing.case import Prepared
from mdkd_auto.report.figures import DRAWINGS, figures_folder
from mdkd_auto.report.learning import draw_learning
from mdkd_auto.tasks.segmentation.training import SegmentationTask, check_settings
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.coverage import Coverage, Found, Truth
from mdkd_auto.tasks.shared.evidence import Evidence
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.shared.scored_part import Answering, Part, answers_of
from mdkd_auto.tasks.shared.whole_images import batch_of, prepare_whole
from mdkd_auto.tasks.task_parts import TASK_PARTS, TaskParts
from mdkd_auto.tasks.task_scores import TASK_SCORES, Scale, TaskScores
from mdkd_auto.training.interfaces import Score

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")
FINDINGS = {"square": 0, "stripe": 1}
FIRST, SECOND = "Dataset941_Dark", "Dataset942_Bright"


# --- raw data: cases.csv names the findings of an image, "square+stripe" or nothing ---------------------------------


def read_findings(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    found = ImageFiles(folder, description)
    found.add_folder(folder / "imagesTr")
    rows, findings = read_case_table(folder / "cases.csv", set(found.files))
    for finding in findings:
        found.report_finding(finding)
    cases = []
    for case_id, files in sorted(found.files.items()):
        label = rows.get(case_id, {}).get("label", "")
        for name in filter(None, label.split("+")):
            if name not in description.labels:
                found.report("class-unknown", f"finding {name!r} of {case_id}", folder / "cases.csv", case_id)
        cases.append(Case(case_id=case_id, images=(str(files[0]),), class_name=label, patient_id=case_id))
    return tuple(cases), description.labels, found.problems


def as_bits(case: Case, dataset: Dataset) -> int:
    """Findings as bits of one number: what the label map holds."""
    return sum(1 << dataset.labels[name][0] for name in filter(None, str(case.class_name).split("+")))


# --- training -------------------------------------------------------------------------------------------------------


class FindingsTask(SegmentationTask):
    """Encoders and fusion of segmentation; the head, loss and score of one yes or no a finding."""

    def head(self, outputs: int, encoder: Encoder | None = None) -> nn.Module:
        return ClassifierHead((encoder or self.encoder()).channels[-1], outputs)

    def truth(self, batch: Batch, dataset: str) -> torch.Tensor:
        bits = batch.labels.flatten(1).amax(1).long()  # INVALID is the lowest
        places = torch.tensor([channel.values[0] for channel in self.classes[dataset].channels])
        return (bits[:, None] >> places.to(bits.device)) & 1

    def loss(self, output: torch.Tensor, batch: Batch, dataset: str) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(output.float(), self.truth(batch, dataset).float())

    def score(self, output: torch.Tensor, batch: Batch, dataset: str) -> Score:
        right = ((output > 0) == (self.truth(batch, dataset) > 0)).sum(0).double()
        return Score(right, torch.full_like(right, len(output)))


class Finder(NamedTuple):
    model: nn.Module
    dataset_plan: DatasetPlan
    plan: ConfigurationPlan
    classes: Classes
    options: PredictionOptions

    def prepare(self, image: Image) -> Prepared:
        return prepare_whole(image, self.dataset_plan, self.plan)

    def shares(self, image: Image) -> tuple[float, ...]:
        return self.shares_of(self.prepare(image))

    @torch.no_grad()
    def shares_of(self, prepared: Prepared) -> tuple[float, ...]:
        batch = batch_of(prepared, self.plan, self.options.device)
        return tuple(torch.sigmoid(self.model(batch)[0].float()).tolist())


# --- scores and answers ---------------------------------------------------------------------------------------------


class Answer(Record, frozen=True, kw_only=True):
    case_id: str
    truth: tuple[bool, ...]
    shares: tuple[float, ...]


class FindingsSummary(Record, frozen=True, kw_only=True):
    dataset: str
    part: str
    answers: tuple[Answer, ...]
    scores: Mean
    failed: dict[str, str]
    evidence: dict[str, Evidence]
    coverage: Coverage | None = None

    @property
    def unit(self) -> str:
        return ""

    def overall(self, per_patient: bool) -> Mean | None:
        return None if per_patient else self.scores

    def score_by_unit(self) -> dict[str, float | None]:
        return {
            answer.case_id: float(np.mean(np.array(answer.truth) == (np.array(answer.shares) > 0.5)))
            for answer in self.answers
        }

    def by_case(self) -> dict[str, Answer]:
        return {answer.case_id: answer for answer in self.answers}


def summary_of(
    answers: list[Answer], dataset: str, part: str, failed: dict[str, str], evidence: dict[str, Evidence]
) -> FindingsSummary:
    truth = np.array([answer.truth for answer in answers])
    said = np.array([answer.shares for answer in answers]) > 0.5
    values = {"right": float(np.mean(truth == said)), "f1": float(f1_score(truth, said, average="macro"))}
    means = {name: MetricMean(mean=value, std=None, evaluable=len(truth), left_out=0) for name, value in values.items()}
    scores = Mean(metrics=means, cases=len(truth), negative_cases=0, negative_cases_with_false_positives=0)
    return FindingsSummary(
        dataset=dataset, part=part, answers=tuple(answers), scores=scores, failed=failed, evidence=evidence
    )


def answer_of(case: Case, shares: tuple[float, ...], names: tuple[str, ...]) -> Answer:
    present = str(case.class_name).split("+")
    return Answer(case_id=case.case_id, truth=tuple(name in present for name in names), shares=shares)


def score_part(part: Part, carried: float | None) -> None:
    if part.is_scored:
        return
    names = part.class_names
    made = answers_of(
        part,
        Answering(
            predict=lambda case, seen: answer_of(case, part.predictor.shares_of(seen.prepared), names),
            rescore=lambda case, known: answer_of(case, known.shares, names),
            prediction_hash=shares_hash,
        ),
    )
    write(part.folder, summary_of(made.answers, part.dataset.name, part.name, made.failed, made.evidence))


def shares_hash(folder: Path, case: Case, answer: Answer | None) -> str:
    return "" if answer is None else content_hash(answer.shares)


def score_folder(folder: Path, known: Truth, keep_classes: bool | None) -> Found:
    names, cases = tuple(known.dataset.labels), {case.case_id: case for case in known.dataset.cases}
    with open(folder / "findings.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = [answer_of(cases[row["case_id"]], tuple(float(row[name]) for name in names), names) for row in rows]
    summary = summary_of(answers, known.dataset.name, folder.name, {}, {})
    return Found(summary, [answer.case_id for answer in answers], "a row of findings")


def write(folder: Path, summary: FindingsSummary) -> None:
    write_json(folder / "summary.json", summary)


def markdown(summary: FindingsSummary) -> str:
    return f"right: {100 * (summary.scores.metrics['right'].mean or 0):.1f} %\n"


def answer_new(asked: Asked) -> Outcome:
    found, problems = each(asked.cases, lambda case: asked.predictor.shares(asked.image(case)))
    lines = [",".join(["case_id", *asked.class_names])]
    lines += [",".join([case_id, *(f"{share:.4f}" for share in shares)]) for case_id, shares in sorted(found.items())]
    write_text(asked.out / "findings.csv", "\n".join(lines) + "\n")
    asked.write_used(classes=asked.class_names)
    return Outcome(len(found), 0, problems)


# --- the seven entries ----------------------------------------------------------------------------------------------

ENTRIES: tuple[tuple[dict[str, Any], Any], ...] = (
    (TASK_DATA, TaskData(class_labels, read_findings, label_value=as_bits)),
    (TASK_SETTINGS, TaskSettings(lambda settings: {"teacher_architecture": settings.teacher_architecture or "unet"})),
    (TASK_RULES, TaskRules(plan=plan_classification, counts=class_counts)),
    (TASK_PARTS, TaskParts(lambda given: FindingsTask(*given[:6]), Finder, check_settings)),
    (
        TASK_SCORES,
        TaskScores(
            score_part,
            shares_hash,
            FindingsSummary,
            score_folder,
            write,
            markdown,
            "right",
            Scale(
                ("right", "f1"),
                {"right": "right (%)", "f1": "F1 (%)"},
                ("right", "f1"),
                (),
                "findings",
                "n is the number of images.",
                "findings that are right",
            ),
        ),
    ),
    (DRAWINGS, {"learning": draw_learning}),
    (TASK_ANSWERS, answer_new),
)


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    for table, entry in ENTRIES:
        monkeypatch.setitem(table, "findings", entry)


# --- the chain ------------------------------------------------------------------------------------------------------


def write_raw(raw: Path) -> None:
    for number, name in enumerate((FIRST, SECOND)):
        rows = ["case_id,label"]
        (raw / name / "imagesTr").mkdir(parents=True)
        for index in range(16):
            rng = np.random.default_rng([number, index])
            shown = [finding for finding, bit in FINDINGS.items() if index >> bit & 1]
            pixels = rng.normal(60 + 60 * number, 8, (64, 64))
            if "square" in shown:
                pixels[8:24, 8:24] += 70
            if "stripe" in shown:
                pixels[40:46] += 70
            Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(raw / name / "imagesTr" / f"c{index:02d}.png")
            rows.append(f"c{index:02d},{'+'.join(shown)}")
        write_text(raw / name / "cases.csv", "\n".join(rows) + "\n")
        write_text(
            raw / name / "dataset.json",
            json.dumps({"task": "findings", "channel_names": {"0": "CXR"}, "labels": FINDINGS, "file_ending": ".png"}),
        )


@pytest.mark.usefixtures("fourth")
def test_a_fourth_task_goes_through_every_command(command: Callable[..., Any], tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    write_raw(root.raw)
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1")
    assert said.status == 0, said.err
    assert f"{FIRST}: classes" in root.plan("CXR_findings").with_suffix(".txt").read_text()
    training = (
        "--root",
        root.folder,
        "--epochs",
        "6",
        "--iterations",
        "10",
        "--width",
        "4",
        "--batch-size",
        "8",
        "--lr",
        "5e-3",
        "--device",
        "cpu",
    )
    said = command(train_all_permutations.main, *training)
    assert said.status == 0, said.err
    (table,) = (root.results / "CXR_findings").glob("table_*.md")
    assert "points findings against data-set-specific" in table.read_text()
    assert {path.name for path in figures_folder(table).iterdir()} >= {f"{FIRST}_learning.png", "differences.png"}
    (student,) = (root.results / FIRST).glob("Student-*/fold_0")
    summary = read_record(student / "test" / "summary.json", FindingsSummary)
    assert (summary.scores.metrics["right"].mean or 0) > 0.7  # chance: 0.5
    said = command(
        predict.main, "-i", root.raw / FIRST / "imagesTr", "-o", tmp_path / "out", "-m", student, "--device", "cpu"
    )
    assert said.status == 0, said.err
    assert read_json(tmp_path / "out" / "prediction.json")["classes"] == ["square", "stripe"]
    said = command(evaluate.main, "-i", tmp_path / "out", "-l", root.raw / FIRST)
    assert said.status == 0, said.err
    assert "right: " in said.out + said.err
    said = command(doctor.main, "--root", root.folder)
    assert "findings" in said.out


@pytest.mark.usefixtures("fourth")
def test_its_mistakes_are_named_too(command: Callable[..., Any], tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    write_raw(root.raw)
    table = root.raw / FIRST / "cases.csv"
    table.write_text(table.read_text().replace("c03,square+stripe", "c03,square+strip"))
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1")
    assert said.status == 1
    assert "class-unknown in Dataset941_Dark: correct the class, or declare it in labels of dataset.json" in said.err
    assert "finding 'strip' of c03" in said.err


def test_a_task_that_is_not_there_is_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    write_raw(root.raw)
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1")
    assert said.status == 1
    assert "field 'task' is 'findings'" in said.err
    assert "expected one of segmentation, classification, detection" in said.err
