"""prediction.json as mdkd_predict writes it, read back beside answers that may have been moved or edited since."""

from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from mdkd_auto.core.errors import DatasetError, MdkdError
from mdkd_auto.core.files import ReadError, read_json, to_record
from mdkd_auto.core.records import Record, SpacingFrom
from mdkd_auto.planners.ranges import TrainingRanges, Unlike
from mdkd_auto.tasks.shared.classes import Classes

REMEDY = "Restore the file; or move it elsewhere, and the answers are read without it"


class Predicted(Record, frozen=True, kw_only=True):
    """With what answers were made. A field may be missing: each task writes its own."""

    run: str | UnsetType = UNSET
    dataset: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    spacing_from: SpacingFrom | None = None
    step: float | UnsetType = UNSET
    mirror: bool | UnsetType = UNSET
    classes: Classes | tuple[str, ...] | UnsetType = UNSET  # of masks, or names
    temperature: float | UnsetType = UNSET  # of a classifier
    threshold: float | UnsetType = UNSET  # of a detector
    images: dict[str, str] | UnsetType = UNSET  # image_id -> case
    training_ranges: TrainingRanges | None = None
    unlike_training: dict[str, tuple[Unlike, ...]] = msgspec.field(default_factory=dict)
    turned_by_exif: dict[str, int] = msgspec.field(default_factory=dict)
    remarks: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)


def read_predicted(path: Path) -> Predicted | None:
    """None for a file without any of these fields: another program's, or emptied.

    Raises DatasetError for unknown fields beside them and for wrong types, naming the file and the field.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not set(Predicted.__struct_fields__) & content.keys():
            return None
        return to_record(content, Predicted, str(path))
    except ReadError:
        raise
    except MdkdError as error:
        raise DatasetError(f"{error}. {REMEDY}") from None
