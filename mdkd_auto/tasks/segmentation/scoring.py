"""Masks against truth: scores per case and per volume, as records and as JSON, CSV and Markdown beside the masks."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from mdkd_auto.core.errors import ImageError, MdkdError
from mdkd_auto.core.files import file_hash, write_json, write_text
from mdkd_auto.core.records import Case, Dataset, Record
from mdkd_auto.core.tables import table_text
from mdkd_auto.formats.read_write import Image, read_mask, same_geometry, write_mask
from mdkd_auto.metrics.summary import METRICS, Mean, Scores, pool, summarise
from mdkd_auto.tasks.segmentation.training import score_case
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.coverage import Coverage, left_out_lines, left_out_rows
from mdkd_auto.tasks.shared.evidence import Evidence
from mdkd_auto.tasks.shared.prediction import mask_ending, read_channel
from mdkd_auto.tasks.shared.scored_part import Answering, Part, Seen, answers_of

logger = logging.getLogger(__name__)

IN_PERCENT = ("dice", "iou", "precision", "recall", "surface_dice", "lesion_f1")
TITLES = {
    "dice": "DSC (%)",
    "iou": "IoU (%)",
    "precision": "precision (%)",
    "recall": "recall (%)",
    "hd95": "HD95",
    "surface_dice": "surface Dice (%)",
    "lesion_f1": "lesion F1 (%)",
}


class CaseScores(Record, frozen=True, kw_only=True):
    """The scores of one case, or of the images of one patient together, by class."""

    case_id: str
    metrics: dict[str, Scores]


class Summary(Record, frozen=True, kw_only=True):
    """summary.json: what a folder of masks is worth. ``foreground_mean`` is over all classes."""

    dataset: str
    part: str
    unit: str  # of HD95: mm, or px where the spacing is unknown
    foreground_mean: Mean
    mean: dict[str, Mean]  # by class
    per_volume_foreground_mean: Mean | None  # the images of a patient together; None where no patient has several
    metric_per_case: tuple[CaseScores, ...]
    metric_per_volume: tuple[CaseScores, ...] | None
    failed: dict[str, str]  # case -> what went wrong
    coverage: Coverage | None = None  # of a folder of anyone's masks; None: of a run's own
    evidence: dict[str, Evidence] = msgspec.field(default_factory=dict)  # case -> what it was scored from

    @property
    def units_of_test(self) -> tuple[CaseScores, ...]:
        """What is independent of each other: patients where they are known, else cases."""
        return self.metric_per_case if self.metric_per_volume is None else self.metric_per_volume

    def overall(self, per_patient: bool) -> Mean | None:
        """Over images, or over patients where they have several; all classes."""
        return self.per_volume_foreground_mean if per_patient else self.foreground_mean

    def score_by_unit(self) -> dict[str, float | None]:
        """DSC of each patient or case, all classes averaged. Without truth: 1 if nothing is predicted, else 0.

        Such a class has no DSC where nothing is predicted. Were it left out, false alarms would cost nothing against a
        model without any. None where no voxel counts: all are under the ignore label.
        """
        result: dict[str, float | None] = {}
        for unit in self.units_of_test:
            values = [1.0 if scores.dice is None else scores.dice for scores in unit.metrics.values() if scores.voxels]
            result[unit.case_id] = float(np.mean(values)) if values else None
        return result

    def by_case(self) -> dict[str, CaseScores]:
        return {scores.case_id: scores for scores in self.metric_per_case}


def score_against_label(predicted: np.ndarray, case: Case, dataset: Dataset, classes: Classes) -> CaseScores:
    """Score a label map (canonical, at the image's own size) against the case's label file."""
    return CaseScores(case_id=case.case_id, metrics=score_case(predicted, read_truth(case, dataset), classes))


def score_masks_of_part(part: Part, carried: float | None) -> None:
    """Predict, write and score the mask of each case; a stored mask that still holds is scored as it is."""
    if part.is_scored:
        return
    known: dict[str, bool] = {}  # case -> whether its spacing is stated

    def predict(case: Case, seen: Seen) -> CaseScores:
        known[case.case_id] = seen.spacing_known
        mask = part.predictor.mask_of(seen.prepared)
        write_mask(mask_path(part.folder, case), mask, seen.header)
        return score_against_label(mask, case, part.dataset, part.classes)

    def rescore(case: Case, _: CaseScores | None) -> CaseScores:
        return score_mask_file(mask_path(part.folder, case), case, part.dataset, part.classes)

    made = answers_of(part, Answering(predict, rescore, mask_hash, colour_to_grey=False))
    unit = "mm" if _all_spacings_known(part, known, made.failed) else "px"
    summary = summary_of(made.answers, part.cases, part.dataset.name, part.name, unit, made.failed, made.evidence)
    write_summary(part.folder, summary)


def _all_spacings_known(part: Part, known: dict[str, bool], failed: Collection[str]) -> bool:
    """Whether every image states its spacing, or dataset.json does. ``known``: of those read just now."""
    if part.dataset.spacing_mm is not None or not all(known.values()):
        return part.dataset.spacing_mm is not None
    kept = [case for case in part.cases if case.case_id not in known and case.case_id not in failed]
    if not kept or part.earlier.unit == "mm":
        return True
    return all(read_channel(case, part.dataset_plan).spacing_known for case in kept)


def mask_path(folder: Path, case: Case) -> Path:
    """Where the mask of a case lies."""
    return folder / f"{case.case_id}{mask_ending(case)}"


def mask_hash(folder: Path, case: Case, _: CaseScores | None) -> str:
    """SHA-256 of the mask of a case; "" where there is none."""
    path = mask_path(folder, case)
    return file_hash(path) if path.is_file() else ""


def score_mask_file(path: Path, case: Case, dataset: Dataset, classes: Classes) -> CaseScores:
    """Score a mask file against the case's label. Raises ImageError where it does not lie on the label's grid."""
    truth, mask = read_truth(case, dataset), read_mask(path, spacing_from=case.spacing_from)
    if (difference := same_geometry(mask, truth)) is not None:
        raise ImageError(f"{path}: does not lie on the grid of its label {case.label}: {difference}")
    return CaseScores(case_id=case.case_id, metrics=score_case(mask.array, truth, classes))


def read_truth(case: Case, dataset: Dataset) -> Image:
    """The label of a case, with the spacing that dataset.json states where the file has none."""
    if case.label is None:
        raise MdkdError(f"{dataset.name}: {case.case_id} has no label to score against")
    truth = read_mask(Path(case.label), spacing_from=case.spacing_from)
    if not truth.spacing_known and dataset.spacing_mm is not None:
        truth = replace(truth, spacing_mm=dataset.spacing_mm, spacing_known=True)
    return truth


def summary_of(
    scores: list[CaseScores],
    cases: Sequence[Case],
    dataset: str,
    part: str,
    unit: str,
    failed: dict[str, str],
    evidence: dict[str, Evidence] | None = None,
) -> Summary:
    """Means over cases and classes, and over patients where one has several of the ``cases``, scored or not."""
    volumes = _per_volume(scores, {case.case_id: case.patient_id for case in cases})
    names = list(scores[0].metrics) if scores else []
    return Summary(
        dataset=dataset,
        part=part,
        unit=unit,
        foreground_mean=summarise([value for case in scores for value in case.metrics.values()]),
        mean={name: summarise([case.metrics[name] for case in scores]) for name in names},
        per_volume_foreground_mean=(
            summarise([value for case in volumes for value in case.metrics.values()]) if volumes is not None else None
        ),
        metric_per_case=tuple(scores),
        metric_per_volume=volumes,
        failed=failed,
        evidence=evidence or {},
    )


def write_summary(folder: Path, summary: Summary) -> None:
    """summary.json, summary.csv and summary.md in ``folder``. Rows of what is not scored come last in the table."""
    write_json(folder / "summary.json", summary)
    fields = Scores.__struct_fields__
    rows = [
        [level, case.case_id, name, *(getattr(scores, field) for field in fields), None]
        for level, cases in (("case", summary.metric_per_case), ("volume", summary.metric_per_volume or ()))
        for case in cases
        for name, scores in case.metrics.items()
    ]
    rows += [
        [level, name, None, *[None] * len(fields), problem]
        for level, name, problem in left_out_rows(summary.coverage, summary.failed)
    ]
    write_text(folder / "summary.csv", table_text(["level", "case_id", "class", *fields, "problem"], rows))
    write_text(folder / "summary.md", summary_markdown(summary))


def summary_markdown(summary: Summary) -> str:
    """Means by class, with the number of evaluable cases of each."""
    head = [f"HD95 ({summary.unit})" if metric == "hd95" else TITLES[metric] for metric in METRICS]
    lines = [f"# {summary.dataset}, {summary.part}", "", "| class | " + " | ".join(head) + " |"]
    lines.append("|---" * (len(METRICS) + 1) + "|")
    rows = {**summary.mean, "all classes": summary.foreground_mean}
    if summary.per_volume_foreground_mean is not None:
        rows["all classes, per patient"] = summary.per_volume_foreground_mean
    for name, mean in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(mean, metric) for metric in METRICS) + " |")
    negative = summary.foreground_mean
    lines += [
        "",
        f"Empty truth: {negative.negative_cases} of {negative.cases}; of these "
        f"{negative.negative_cases_with_false_positives} have false positives.",
    ]
    lines += left_out_lines(summary.coverage, summary.failed)
    return "\n".join(lines) + "\n"


def cell(mean: Mean | None, metric: str) -> str:
    """71.2 (n=20), or a dash where nothing is evaluable."""
    if mean is None or mean.metrics[metric].mean is None:
        return "-"
    value = mean.metrics[metric].mean or 0.0
    shown = f"{100 * value:.1f}" if metric in IN_PERCENT else f"{value:.2f}"
    return f"{shown} (n={mean.metrics[metric].evaluable})"


def _per_volume(scores: list[CaseScores], patients: dict[str, str]) -> tuple[CaseScores, ...] | None:
    """The images of each patient pooled; None where every patient has one image.

    ``patients``: of all cases, those that failed too, so that the units of two models are the same.
    """
    if len(set(patients.values())) == len(patients):
        return None
    groups: dict[str, list[CaseScores]] = {}
    for case in scores:
        groups.setdefault(patients[case.case_id], []).append(case)
    return tuple(
        CaseScores(
            case_id=patient,
            metrics={name: pool([case.metrics[name] for case in group]) for name in group[0].metrics},
        )
        for patient, group in groups.items()
    )
