"""dataset.json, checked field by field. What nnU-Net allows beyond these fields is accepted and ignored."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args

from mdkd_auto.data.endings import ENDINGS
from mdkd_auto.errors import DatasetError, MdkdError
from mdkd_auto.files import read_json
from mdkd_auto.records import Task, Triple

TASKS: tuple[Task, ...] = get_args(Task)
GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
IGNORE = "ignore"
BACKGROUND = "background"


class Description(NamedTuple):
    """dataset.json, with the names of :class:`records.Dataset`."""

    task: Task
    modality: str
    channel_names: tuple[str, ...]
    labels: dict[str, tuple[int, ...]]
    regions_class_order: tuple[int, ...]
    ignore_label: int | None
    file_ending: str
    spacing_mm: Triple | None
    number_of_cases: int | None
    entries: dict[str, tuple[tuple[str, ...], str]]  # case -> images and label, as written


def read_description(path: Path) -> Description:
    """Read and check dataset.json. Raises DatasetError."""
    try:
        content = read_json(path)
    except MdkdError as error:
        raise DatasetError(f"{error}; every data set needs a dataset.json") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds {_kind(content)}; expected an object with channel_names and labels")
    task = content.get("task", "segmentation")
    if task not in TASKS:
        _refuse(path, "task", task, f"one of {', '.join(TASKS)}")
    channel_names = _channel_names(path, content)
    labels, ignore_label = _labels(path, content, task)
    number = content.get("numTraining")
    if number is not None and not _is_count(number):
        _refuse(path, "numTraining", number, "the number of training cases")
    segmentation = task == "segmentation"
    return Description(
        task=task,
        modality=_modality(path, content, channel_names),
        channel_names=channel_names,
        labels=labels,
        regions_class_order=_regions_class_order(path, content, labels) if segmentation else (),
        ignore_label=ignore_label,
        file_ending=_file_ending(path, content),
        spacing_mm=_spacing_mm(path, content),
        number_of_cases=number,
        entries=_entries(path, content) if segmentation else {},
    )


def _channel_names(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("channel_names")
    expected = 'an object of channel numbers from 0, like {"0": "T1", "1": "FLAIR"}'
    if names is None and "modality" in content:
        _refuse(path, "modality", content["modality"], f"the nnU-Net v2 field 'channel_names': {expected}; rename it")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) and name for name in names.values()):
        _refuse(path, "channel_names", names, expected)
    if set(names) != {str(number) for number in range(len(names))}:
        _refuse(path, "channel_names", names, expected)
    return tuple(names[str(number)] for number in range(len(names)))


def _modality(path: Path, content: dict[str, Any], channel_names: tuple[str, ...]) -> str:
    """``group`` if given; else CT or CXR by the channel names; else MRI."""
    group = content.get("group")
    if group is not None:
        if not isinstance(group, str) or not GROUP_NAME.fullmatch(group):
            _refuse(path, "group", group, "a word of letters, digits, '-' and '.', like MRI")
        return group
    for name in channel_names:
        words = re.split(r"[^a-z0-9]+", name.lower())
        if "ct" in words:
            return "CT"
        if "cxr" in words or "xray" in "".join(words):
            return "CXR"
    return "MRI"


def _labels(path: Path, content: dict[str, Any], task: Task) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Class -> values without background and ignore, and the value of ignore."""
    expected = 'an object of names and whole numbers (or lists of them), like {"background": 0, "tumour": 1}'
    found = content.get("labels")
    if not isinstance(found, dict) or not found:
        _refuse(path, "labels", found, expected)
    if task != "segmentation":  # no masks: names and numbers, whatever they mean
        plain = {name: _values(value) for name, value in found.items() if name != BACKGROUND}
        return {name: values for name, values in plain.items() if values is not None}, None
    if all(name.isdigit() for name in found):
        _refuse(path, "labels", found, f"the nnU-Net v2 order, {expected}; swap names and numbers")
    if found.get(BACKGROUND) != 0 or isinstance(found.get(BACKGROUND), bool):
        _refuse(path, "labels.background", found.get(BACKGROUND), "0")
    labels: dict[str, tuple[int, ...]] = {}
    for name, value in found.items():
        values = _values(value)
        if values is None:
            _refuse(path, f"labels.{name}", value, expected)
        if name != BACKGROUND:
            labels[name] = values
    return _check_values(path, labels)


def _check_values(path: Path, labels: dict[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Values must be 1, 2, 3, ... without a gap, and ``ignore`` the next; only regions may share values."""
    ignored = labels.pop(IGNORE, None)
    used = [value for values in labels.values() for value in values]
    highest = len(set(used))
    if not used or set(used) != set(range(1, highest + 1)):
        _refuse(path, "labels", sorted(set(used)), "values 1, 2, 3, ... without a gap; renumber labels and masks")
    if len(used) != highest and not _has_regions(labels):
        _refuse(path, "labels", labels, "a value of its own for each class")
    if ignored is not None and ignored != (highest + 1,):
        _refuse(path, "labels.ignore", list(ignored), f"{highest + 1}, the highest label and one")
    return labels, None if ignored is None else ignored[0]


def _regions_class_order(path: Path, content: dict[str, Any], labels: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    if not _has_regions(labels):
        return ()
    order = content.get("regions_class_order")
    values = {value for part in labels.values() for value in part}
    if not isinstance(order, list) or len(order) != len(labels) or not all(_is_count(v) and v in values for v in order):
        _refuse(path, "regions_class_order", order, f"a list of {len(labels)} label values, one a region of 'labels'")
    return tuple(order)


def _file_ending(path: Path, content: dict[str, Any]) -> str:
    ending = content.get("file_ending")
    if not isinstance(ending, str) or ending.lower() not in ENDINGS:
        _refuse(path, "file_ending", ending, f"one of {', '.join(ENDINGS)}")
    return ending


def _spacing_mm(path: Path, content: dict[str, Any]) -> Triple | None:
    found = content.get("spacing_mm")
    if found is None:
        return None
    numbers = isinstance(found, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)
    if not numbers or len(found) not in {2, 3} or not all(math.isfinite(v) and v > 0 for v in found):
        _refuse(path, "spacing_mm", found, "two (y, x) or three (z, y, x) positive numbers in mm")
    z, y, x = (1.0, *found) if len(found) == 2 else found
    return (float(z), float(y), float(x))


def _entries(path: Path, content: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], str]]:
    found = content.get("dataset", {})
    expected = 'an object like {"case": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}}'
    if not isinstance(found, dict):
        _refuse(path, "dataset", found, expected)
    entries = {}
    for case_id, entry in found.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(v, str) for v in images) or not isinstance(label, str):
            _refuse(path, f"dataset.{case_id}", entry, expected)
        entries[case_id] = (tuple(images), label)
    return entries


def _has_regions(labels: dict[str, tuple[int, ...]]) -> bool:
    return any(len(values) > 1 for values in labels.values())


def _values(value: Any) -> tuple[int, ...] | None:
    values = value if isinstance(value, list) else [value]
    return tuple(values) if values and all(_is_count(item) for item in values) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _refuse(path: Path, field: str, found: Any, expected: str) -> NoReturn:
    what = "is missing" if found is None else f"is {_kind(found)}"
    raise DatasetError(f"{path}: field '{field}' {what}; expected {expected}")
