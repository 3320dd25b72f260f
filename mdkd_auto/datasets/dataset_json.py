"""Check dataset.json field by field and report every wrong field. Further nnU-Net fields are ignored."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, get_args

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import ReadError, read_json
from mdkd_auto.core.records import DEFAULT_TASK, Case, Dataset, SpacingFrom, Task, Triple
from mdkd_auto.datasets.problems import Finding, Problem
from mdkd_auto.datasets.truth.placeholder_classes import is_background, is_no_object
from mdkd_auto.formats.file_endings import ENDINGS

Value = TypeVar("Value")
Labels = dict[str, tuple[int, ...]]  # class -> its label values

GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
IGNORE = "ignore"
BACKGROUND = "background"
LABELS_LIKE = 'an object of names and whole numbers (or lists of them), like {"background": 0, "tumour": 1}'
BOX_LABELS_LIKE = 'an object of classes and whole numbers, a number of its own for each, like {"nodule": 1, "mass": 2}'
SAFE_NAMES = "printable names without | and $ that do not begin with =, +, - or @"


class Description(NamedTuple):
    """dataset.json, with the field names of :class:`records.Dataset`."""

    task: Task
    modality: str
    channel_names: tuple[str, ...]
    labels: Labels
    regions_class_order: tuple[int, ...]
    ignore_label: int | None
    file_ending: str
    spacing_mm: Triple | None
    spacing_from: SpacingFrom | None
    number_of_cases: int | None
    entries: dict[str, tuple[tuple[str, ...], str]]  # case -> images and label as written


class TaskData(NamedTuple):
    """How raw data sets of a task are read; datasets/task_data.py has one entry per task."""

    # dataset.json -> class -> values without background and ignore; the ignore value
    labels: Callable[[dict[str, Any]], tuple[Labels, int | None]]
    # sound cases, classes, and the problems of the other cases
    read: Callable[[Path, Description], tuple[tuple[Case, ...], Labels, list[Problem]]]
    masks: bool = False  # truth is a mask on the image grid
    # otherwise, the constant value of the stored label map
    label_value: Callable[[Case, Dataset], int] = lambda case, dataset: 0
    compare_pictures: bool = False  # look for near-duplicates
    class_folders: bool = False  # any folder may hold the images of one class


def read_description(path: Path, tasks: Mapping[Task, TaskData]) -> tuple[Description | None, list[Finding]]:
    """Read and check dataset.json; None and all wrong fields if it is unusable. ``tasks``: the known tasks."""
    if not path.is_file():
        return None, [Finding("dataset-json-missing", str(path), "the file does not exist")]
    try:
        content = read_json(path)
    except ReadError as error:
        return None, [Finding("refused", str(path), error.found)]
    except MdkdError as error:
        return None, [Finding("dataset-json-syntax", str(path), str(error).removeprefix(f"{path}: "))]
    if not isinstance(content, dict):
        message = f"holds {_kind(content)}; expected an object with channel_names and labels"
        return None, [Finding("dataset-json-syntax", str(path), message)]
    fields = _Fields(path, content)
    task = fields.read(lambda content: _task(content, tasks)) or DEFAULT_TASK
    masks = tasks[task].masks
    channel_names = fields.read(_channel_names) or ()
    labels, ignore_label = fields.read(tasks[task].labels) or ({}, None)
    description = Description(
        task=task,
        modality=fields.read(lambda content: _modality(content, channel_names)) or "",
        channel_names=channel_names,
        labels=labels,
        regions_class_order=fields.read(lambda content: _regions_class_order(content, labels) if masks else ()) or (),
        ignore_label=ignore_label,
        file_ending=fields.read(lambda content: _file_ending(content, masks)) or "",
        spacing_mm=fields.read(_spacing_mm),
        spacing_from=fields.read(_spacing_from),
        number_of_cases=fields.read(_number_of_cases),
        entries=fields.read(lambda content: _entries(content) if masks else {}) or {},
    )
    return (None if fields.findings else description), fields.findings


class _Refused(Exception):
    """A missing or wrong field."""


class _Fields:
    """Read fields one by one, and collect every wrong one."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.findings: list[Finding] = []

    def read(self, reader: Callable[[dict[str, Any]], Value]) -> Value | None:
        try:
            return reader(self.content)
        except _Refused as refused:
            found, expected = refused.args
            self.findings.append(Finding("dataset-json-field", str(self.path), found, expected))
            return None


def _task(content: dict[str, Any], tasks: Mapping[Task, TaskData]) -> Task:
    task = content.get("task", DEFAULT_TASK)
    if not isinstance(task, str) or task not in tasks:
        _refuse("task", task, f"one of {', '.join(tasks)}")
    return task


def _number_of_cases(content: dict[str, Any]) -> int | None:
    number = content.get("numTraining")
    if number is not None and not _is_count(number):
        _refuse("numTraining", number, "the number of training cases")
    return number


def _channel_names(content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("channel_names")
    expected = 'an object of channel numbers from 0, like {"0": "T1", "1": "FLAIR"}'
    if names is None and "modality" in content:
        _refuse("modality", content["modality"], f"the nnU-Net v2 field 'channel_names': {expected}; rename it")
    if not isinstance(names, dict) or not names or not all(is_name(name) for name in names.values()):
        _refuse("channel_names", names, expected)
    if set(names) != {str(number) for number in range(len(names))}:
        _refuse("channel_names", names, expected)
    return tuple(names[str(number)] for number in range(len(names)))


def _modality(content: dict[str, Any], channel_names: tuple[str, ...]) -> str:
    """``group`` if given; otherwise CT or CXR by channel names, else MRI."""
    group = content.get("group")
    if group is not None:
        if not isinstance(group, str) or not GROUP_NAME.fullmatch(group):
            _refuse("group", group, "a word of letters, digits, '-' and '.', like MRI")
        return group
    for name in channel_names:
        tokens = re.split(r"[^a-z0-9]+", name.lower())
        if "ct" in tokens:
            return "CT"
        if "cxr" in tokens or "xray" in "".join(tokens):
            return "CXR"
    return "MRI"


def mask_labels(content: dict[str, Any]) -> tuple[Labels, int | None]:
    """Labels of masks: names and values."""
    expected, found = LABELS_LIKE, content.get("labels")
    if not isinstance(found, dict) or not found:
        _refuse("labels", found, expected)
    if all(name.isdigit() for name in found):
        _refuse("labels", found, f"the nnU-Net v2 order, {expected}; swap names and numbers")
    if found.get(BACKGROUND) != 0 or isinstance(found.get(BACKGROUND), bool):
        _refuse("labels.background", found.get(BACKGROUND), "0")
    labels: Labels = {}
    for name, value in found.items():
        values = _values(value)
        if not is_name(name):
            _refuse("labels", found, SAFE_NAMES)
        if values is None:
            _refuse(f"labels.{name}", value, expected)
        if name != BACKGROUND:
            labels[name] = values
    return _check_values(labels)


def box_labels(content: dict[str, Any]) -> tuple[Labels, None]:
    """Labels of boxes: names, numbered in order; {} if the annotations name the classes."""
    found = content.get("labels")
    if found is None:
        return {}, None
    if not isinstance(found, dict) or not found:
        _refuse("labels", found, f"{BOX_LABELS_LIKE}; or leave it out")
    if all(name.isdigit() for name in found) and not all(_is_count(value) for value in found.values()):
        _refuse("labels", found, f"the nnU-Net v2 order, {BOX_LABELS_LIKE}; swap names and numbers")
    for name, value in found.items():
        if not is_name(name):
            _refuse("labels", found, SAFE_NAMES)
        if not _is_count(value):
            _refuse(f"labels.{name}", value, "a whole number from 0, one for each class")
        if is_no_object(name) and not is_background(name):
            _refuse(f"labels.{name}", value, "names of objects; leave this one out")
    if len(set(found.values())) < len(found):
        _refuse("labels", found, "a number of its own for each class")
    return {name: (value,) for name, value in found.items() if not is_background(name)}, None


def class_labels(content: dict[str, Any]) -> tuple[Labels, None]:
    """Labels of whole images: class -> number; {} if folders or cases.csv name the classes."""
    found = content.get("labels")
    expected = 'an object of classes and numbers from 0, like {"normal": 0, "pneumonia": 1}; or leave it out'
    if found is None:
        return {}, None
    if not isinstance(found, dict) or len(found) < 2 or not all(is_name(name) for name in found):
        _refuse("labels", found, expected)
    if not all(_is_count(value) for value in found.values()) or sorted(found.values()) != list(range(len(found))):
        _refuse("labels", found, expected)
    return {name: (value,) for name, value in sorted(found.items(), key=lambda item: item[1])}, None


def _check_values(labels: Labels) -> tuple[Labels, int | None]:
    """Values must be consecutive from 1, with ``ignore`` last; only regions may share values."""
    ignored = labels.pop(IGNORE, None)
    used = [value for values in labels.values() for value in values]
    highest = len(set(used))
    if not used or set(used) != set(range(1, highest + 1)):
        _refuse("labels", sorted(set(used)), "values 1, 2, 3, ... without a gap; renumber labels and masks")
    if len(used) != highest and not _has_regions(labels):
        _refuse("labels", labels, "a value of its own for each class")
    if ignored is not None and ignored != (highest + 1,):
        _refuse("labels.ignore", list(ignored), f"{highest + 1}, the highest label and one")
    return labels, None if ignored is None else ignored[0]


def _regions_class_order(content: dict[str, Any], labels: Labels) -> tuple[int, ...]:
    if not _has_regions(labels):
        return ()
    order = content.get("regions_class_order")
    values = {value for part in labels.values() for value in part}
    if not isinstance(order, list) or len(order) != len(labels) or not all(_is_count(v) and v in values for v in order):
        _refuse("regions_class_order", order, f"a list of {len(labels)} label values, one a region of 'labels'")
    return tuple(order)


def _file_ending(content: dict[str, Any], masks: bool) -> str:
    """ "" for a data set without masks that gives none: any image format."""
    ending = content.get("file_ending")
    if not masks and (ending is None or ending == ""):
        return ""
    if not isinstance(ending, str) or ending.lower() not in ENDINGS:
        _refuse("file_ending", ending, f"one of {', '.join(ENDINGS)}")
    return ending.lower()


def _spacing_mm(content: dict[str, Any]) -> Triple | None:
    found = content.get("spacing_mm")
    if found is None:
        return None
    numbers = isinstance(found, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)
    if not numbers or len(found) not in {2, 3} or not all(math.isfinite(v) and v > 0 for v in found):
        _refuse("spacing_mm", found, "two (y, x) or three (z, y, x) positive numbers in mm")
    z, y, x = (1.0, *found) if len(found) == 2 else found
    return (float(z), float(y), float(x))


def _spacing_from(content: dict[str, Any]) -> Any:
    """Return a ``SpacingFrom``, or None."""
    found, allowed = content.get("spacing_from"), get_args(SpacingFrom)
    if found is not None and found not in allowed:
        _refuse("spacing_from", found, f"one of {', '.join(allowed)}")
    return found


def _entries(content: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], str]]:
    found = content.get("dataset", {})
    expected = 'an object like {"case": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}}'
    if not isinstance(found, dict):
        _refuse("dataset", found, expected)
    entries = {}
    for case_id, entry in found.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(v, str) for v in images) or not isinstance(label, str):
            _refuse(f"dataset.{case_id}", entry, expected)
        entries[case_id] = (tuple(images), label)
    return entries


def _has_regions(labels: Labels) -> bool:
    return any(len(values) > 1 for values in labels.values())


def _values(value: Any) -> tuple[int, ...] | None:
    values = value if isinstance(value, list) else [value]
    return tuple(values) if values and all(_is_count(item) for item in values) else None


def is_name(value: Any) -> bool:
    """Whether text is safe to display: no control characters, table bars, or spreadsheet and figure formulas."""
    if not isinstance(value, str) or not value.isprintable() or set("|$") & set(value):
        return False
    return value[:1] not in ("", *"=+-@")


def likeness_of_name(name: str) -> str:
    """Normalise a name: equal if names differ only by case or spaces."""
    return "".join(name.split()).casefold()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _refuse(field: str, found: Any, expected: str) -> NoReturn:
    what = "is missing" if found is None else f"is {_kind(found)}"
    raise _Refused(f"field '{field}' {what}", f"expected {expected}")
