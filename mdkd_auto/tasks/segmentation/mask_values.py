"""What the numbers in a mask mean: by prediction.json beside it, by dataset.json, or refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from mdkd_auto.core.errors import DatasetError, ImageError, SettingsError
from mdkd_auto.core.files import read_json, to_record
from mdkd_auto.core.limits import refuse
from mdkd_auto.core.records import Dataset
from mdkd_auto.core.text import shown
from mdkd_auto.datasets.case_reading import declared_values, whole_values
from mdkd_auto.tasks.shared.classes import FOREGROUND, Classes, classes_of, faults_of_classes
from mdkd_auto.tasks.shared.coverage import PREDICTION
from mdkd_auto.tasks.shared.prediction_json import REMEDY, read_predicted
from mdkd_auto.training.checkpoints import COPY_AGAIN

DATASET_JSON = "dataset.json"
BINARY = (1, 255)  # what programs write for the one class there is
SHOWN = 8  # values in a message


class Reading(NamedTuple):
    """How the values of a mask become those of a data set."""

    classes: Classes  # that are scored
    values: Mapping[int, int]  # value in a mask -> that of the data set
    ignore: int | None  # allowed in a mask where the label holds it too
    declared_by: str

    @property
    def one_class(self) -> bool:
        return len(self.classes.channels) == 1


class Written(NamedTuple):
    """The classes of the model that wrote the masks of a folder."""

    classes: Classes
    source: str  # the file that says so


def written_classes(folder: Path, dataset: str, run: Path | None) -> Written | None:
    """By prediction.json of the folder, or by run.json of the run whose own masks these are; None where neither says
    it.

    Raises MdkdError for a file that is not as mdkd_predict or a training writes it.
    """
    path = folder / PREDICTION if run is None else run / "run.json"
    if not path.is_file():
        return None
    classes = _classes_of_run(path, dataset) if run is not None else _classes_of_prediction(path)
    if classes is None:
        return None
    remedy = REMEDY if run is None else COPY_AGAIN
    refuse(path, faults_of_classes(classes, masks=True, where="classes.channels"), DatasetError, remedy)
    return Written(classes, path.name)


def _classes_of_run(path: Path, dataset: str) -> Classes | None:
    content = read_json(path)
    classes = content.get("classes") if isinstance(content, dict) else None
    if isinstance(classes, dict):
        classes = classes.get(dataset)
    return None if classes is None else to_record(classes, Classes, f"{path}: field 'classes'", DatasetError)


def _classes_of_prediction(path: Path) -> Classes | None:
    predicted = read_predicted(path)
    if predicted is None or predicted.classes is UNSET:
        return None
    if not isinstance(predicted.classes, Classes):
        raise DatasetError(
            f"{path}: classes is {shown(list(predicted.classes))}; expected those of masks, an object "
            f"with channels, regions and ignore. {REMEDY}"
        )
    return predicted.classes


def reading_of(dataset: Dataset, keep_classes: bool | None, written: Written | None = None) -> Reading:
    """How masks are read: ``keep_classes`` None takes the classes as they were written, merged where unknown.

    Raises SettingsError where one foreground was written and the classes are wanted, DatasetError for a model of
    other classes.
    """
    if written is None:
        classes = classes_of(dataset, bool(keep_classes))
        declared = sorted(declared_values(dataset).union(dataset.regions_class_order) - {dataset.ignore_label})
        return Reading(classes, {value: value for value in declared}, dataset.ignore_label, DATASET_JSON)
    several = len(dataset.labels) > 1
    if len(written.classes.channels) == 1:
        return _one_foreground(dataset, bool(keep_classes), written, several)
    names = [channel.name for channel in written.classes.channels]
    own = classes_of(dataset, keep_classes=True)
    if sorted(names) != sorted(dataset.labels) or (own.regions and own.channels != written.classes.channels):
        raise DatasetError(
            f"{written.source} says that the masks hold the classes {_classes_text(written.classes)}; "
            f"{dataset.name} has {_classes_text(own)}. Give the data set of the model"
        )
    value_of = {channel.name: channel.written for channel in own.channels}
    values = {0: 0} | {channel.written: value_of[channel.name] for channel in written.classes.channels}
    return Reading(own, values, dataset.ignore_label, written.source)


def _one_foreground(dataset: Dataset, keep_classes: bool, written: Written, several: bool) -> Reading:
    (channel,) = written.classes.channels
    if several and keep_classes:
        raise SettingsError(
            f"{written.source} says that all classes were written as one foreground, value "
            f"{channel.written}, so {', '.join(dataset.labels)} cannot be told apart; leave out "
            "--keep-classes, or predict with a model that was trained with it"
        )
    if several and channel.name != FOREGROUND:
        raise DatasetError(
            f"{written.source} says that the masks hold the class {channel.name}; {dataset.name} has "
            f"{', '.join(dataset.labels)}. Give the data set of the model"
        )
    classes = classes_of(dataset, keep_classes)
    values = {0: 0, channel.written: classes.channels[0].written}
    return Reading(classes, values, dataset.ignore_label, written.source)


def read_labels(mask: NDArray[Any], label: NDArray[Any], reading: Reading) -> tuple[NDArray[Any], tuple[int, ...], str]:
    """The mask in the data set's values, the values it held, and a word where one was not declared.

    Where there is one class, a mask of 0 and 1 or of 0 and 255 means it whatever its number. Raises ImageError, without
    the file's name, for values that are no whole numbers or not declared.
    """
    _check_whole(mask)
    held = tuple(whole_values(mask))
    foreground = set(held) - {0}
    values, said = dict(reading.values), ""
    if reading.ignore is not None and reading.ignore in foreground:
        if ((mask == reading.ignore) & (label != reading.ignore)).any():
            raise ImageError(
                f"holds {reading.ignore}, the ignore label, where the truth has another value; expected "
                "a class or 0 there"
            )
        values[reading.ignore] = 0
    unknown = sorted(foreground - set(values))
    if unknown:
        if not (reading.one_class and foreground == set(unknown) and len(unknown) == 1 and unknown[0] in BINARY):
            raise ImageError(
                f"holds the value{'s' if len(held) > 1 else ''} {_listed(held)}; {_listed(unknown)} "
                f"{'is' if len(unknown) == 1 else 'are'} not declared ({reading.declared_by} declares "
                f"{_listed(sorted(reading.values))})"
            )
        values[unknown[0]] = reading.classes.channels[0].written
        said = (
            f"only 0 and {unknown[0]}: {unknown[0]} is not declared by {reading.declared_by}, and is read as "
            f"{reading.classes.channels[0].name}"
        )
    if all(values[value] == value for value in held):
        return mask, held, said
    largest = max(0, *values.values())
    labels = np.zeros(mask.shape, dtype=np.min_scalar_type(largest))
    for value in held:
        labels[mask == value] = values[value]
    return labels, held, said


def _check_whole(mask: NDArray[Any]) -> None:
    if mask.dtype.kind != "f":
        return
    wrong = mask[~(np.isfinite(mask) & (mask == np.rint(mask)))]
    if wrong.size:
        raise ImageError(
            f"{wrong.size} of {mask.size} voxels are not whole numbers (the first is {wrong.flat[0]:g}); "
            "expected class numbers, not probabilities or NaN"
        )


def _classes_text(classes: Classes) -> str:
    return ", ".join(f"{channel.written} {channel.name}" for channel in classes.channels)


def _listed(values: Any) -> str:
    shown = ", ".join(str(value) for value in values[:SHOWN])
    return f"{shown} and {len(values) - SHOWN} more" if len(values) > SHOWN else shown
