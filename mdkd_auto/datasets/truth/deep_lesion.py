"""Read the boxes of NIH DeepLesion: DL_info.csv, one lesion per row (Yan et al., J. Med. Imaging 2018)."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from mdkd_auto.core.files import unread_because
from mdkd_auto.core.records import Box, Triple
from mdkd_auto.core.tables import TableError, read_table
from mdkd_auto.core.text import shown
from mdkd_auto.datasets.problems import Finding
from mdkd_auto.datasets.truth.annotations import Annotated, Annotations, Split, base_name, finite_numbers, whole_size
from mdkd_auto.datasets.truth.box_layouts import CORNERS

NEEDED = ("File_name", "Bounding_boxes")
TYPE, NOISY = "Coarse_lesion_type", "Possibly_noisy"
COLUMNS = (*NEEDED, TYPE, NOISY, "Patient_index", "Train_Val_Test", "Spacing_mm_px_", "Image_size")
TYPES = {
    "1": "bone",
    "2": "abdomen",
    "3": "mediastinum",
    "4": "liver",
    "5": "lung",
    "6": "kidney",
    "7": "soft tissue",
    "8": "pelvis",
}  # -1: unknown, as in the whole training part
SPLITS: dict[str, Split] = {"1": "train", "2": "val", "3": "test", "": ""}
FIRST_PIXEL = 1  # boxes count pixels from 1, as in the authors' own reader (github.com/rsummers11/CADLab)

Row = dict[str, str]


class _RowFields(NamedTuple):
    """The image properties of a row; all rows of one image must agree."""

    size: tuple[int, int] | None
    patient_id: str
    split: Split
    spacing_mm: Triple | None


class _Classes:
    """Classes of rows: the single label that is not a coarse type, or else the types. Counts rows of other types."""

    def __init__(self, labels: Collection[str]) -> None:
        self.labels = tuple(labels)
        spelled = {label.lower(): label for label in labels}
        self.types = {number: spelled.get(name, name) for number, name in TYPES.items()}
        self.some = any(name in spelled for name in TYPES.values())
        self.others: Counter[str] = Counter()

    def of(self, row: Row) -> str | None:
        """Return the class of a row, or None."""
        if len(self.labels) == 1 and not (self.some and TYPE in row):
            return self.labels[0]
        return self.types.get(row.get(TYPE, ""))

    def leaves_out(self, row: Row) -> bool:
        """Whether ``labels`` lists some types but not the row's. Such rows are counted."""
        name = self.of(row)
        if not self.some or name is None or name in self.labels:
            return False
        self.others[name] += 1
        return True


def read_deep_lesion(path: Path, names: Collection[str], labels: Collection[str] = ()) -> Annotations:
    """Read the images among ``names``; one warning counts the rows of others.

    Every box belongs to the single class in ``labels``, or else to its coarse lesion type. If ``labels`` lists some
    types, one warning counts the rows of the others, whose images become unlabelled. Classes are in alphabetical
    order. Rows that the authors mark as possibly noisy are used, and counted in a warning.
    """
    rows, findings = _rows(path, names)
    of_row = _Classes(labels)
    of_image: dict[str, list[tuple[int, Row]]] = {}
    elsewhere = 0
    for number, row in rows:
        name = base_name(row["File_name"])
        if not name:
            details = f"row {number}: has no File_name"
            findings.append(Finding("annotation-without-image", str(path), details, part=f"row {number}"))
        elif name in names:
            of_image.setdefault(name, []).append((number, row))
        else:
            elsewhere += 1
    if elsewhere:
        details = f"{elsewhere} of {len(rows)} rows name images that are not in imagesTr; they are left out"
        findings.append(Finding("annotations-elsewhere", str(path), details))
    images = [_annotated(path, name, members, of_row) for name, members in of_image.items()]
    if of_row.others:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(of_row.others.items()))
        details = f"{of_row.others.total()} of {len(rows)} rows are of types that labels of dataset.json does not name"
        findings.append(Finding("annotations-other-type", str(path), f"{details} ({counts}); they are left out"))
    read = [row for members in of_image.values() for _, row in members]
    noisy = sum(row.get(NOISY, "") not in ("", "0") for row in read)
    if noisy:
        message = f"rows marked {NOISY}: {noisy} of {len(read)}; they are used like the others"
        findings.append(Finding("annotations-doubtful", str(path), message))
    classes = {box.class_name for annotated in images for box in annotated.boxes}
    return Annotations(images, tuple(sorted(classes)), findings, layout=CORNERS)


def _rows(path: Path, names: Collection[str]) -> tuple[list[tuple[int, Row]], list[Finding]]:
    """Return numbered rows. A row of wrong length is a problem of the image it names, if in ``names``."""
    try:
        table = read_table(path, NEEDED, COLUMNS)
    except TableError as error:
        return [], [Finding("annotations-syntax", str(path), error.found, error.remedy)]
    except OSError as error:
        return [], [Finding("refused", str(path), unread_because(error))]
    rows, findings = [], []
    for number, cells, fault in table.rows:
        if not fault:
            rows.append((number, cells))
        else:
            image = base_name(cells.get("File_name", ""))
            part = image if image in names else f"row {number}"
            findings.append(Finding("annotations-syntax", str(path), f"row {number}: {fault}", part=part))
    return rows, findings


def _annotated(path: Path, name: str, rows: list[tuple[int, Row]], of_row: _Classes) -> Annotated:
    """Merge all rows of one image."""
    boxes: list[Box] = []
    wrong: list[tuple[str, str]] = []
    first: _RowFields | None = None
    left_out = ""
    for number, row in rows:
        fields, unread = _row_fields(row)
        wrong += [("annotations-field", f"row {number}: {message}") for message in unread]
        first = first or fields
        if fields != first and not unread:
            message = f"row {number}: patient, split, spacing or size differ from those of row {rows[0][0]}"
            wrong.append(("annotations-field", message))
        if of_row.leaves_out(row):
            left_out = f"row {number} is of type {of_row.of(row)}, which labels of dataset.json does not name"
            continue
        class_name = of_row.of(row)
        if class_name is None:
            message = f"row {number}: {TYPE} is {row.get(TYPE)!r}; expected 1 to 8, or in labels of dataset.json"
            wrong.append(("class-unknown", f"{message} one class that is no type, which all boxes are of"))
        numbers = finite_numbers(row["Bounding_boxes"].split(","), 4)
        if numbers is None:
            message = f"row {number}: Bounding_boxes is {shown(row['Bounding_boxes'])}; expected x1, y1, x2, y2"
            wrong.append(("box-number", message))
        elif class_name is not None:
            x1, y1, x2, y2 = numbers
            corner = {"x": x1 - FIRST_PIXEL, "y": y1 - FIRST_PIXEL}
            boxes.append(Box(class_name=class_name, width=x2 - x1, height=y2 - y1, **corner))
    fields = first or _RowFields(None, "", "", None)
    findings = tuple(Finding(kind, str(path), message) for kind, message in wrong)
    return Annotated(
        name,
        fields.size,
        tuple(boxes),
        fields.patient_id,
        fields.split,
        fields.spacing_mm,
        str(path),
        findings,
        left_out=left_out,
    )


def _row_fields(row: Row) -> tuple[_RowFields, list[str]]:
    """Parse the columns besides box and class; returns also the names of unreadable columns."""
    wrong = []
    size = whole_size(row.get("Image_size", "").split(","))
    if size is None and row.get("Image_size"):
        wrong.append(f"Image_size is {shown(row['Image_size'])}; expected width, height")
    split = SPLITS.get(row.get("Train_Val_Test", ""))
    if split is None:
        wrong.append(f"Train_Val_Test is {shown(row['Train_Val_Test'])}; expected 1, 2 or 3")
    spacing: Triple | None = None
    if stated := row.get("Spacing_mm_px_"):
        numbers = finite_numbers(stated.split(","), 3)
        if numbers is None or min(numbers) <= 0:
            wrong.append(f"Spacing_mm_px_ is {shown(stated)}; expected x, y, z in mm")
        else:
            spacing = (numbers[2], numbers[1], numbers[0])
    return _RowFields(size, row.get("Patient_index", ""), split or "", spacing), wrong
