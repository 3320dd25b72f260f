"""dataset.json as a record, for its JSON schema. datasets/dataset_json.py reads and checks the file.

The schema covers rules on single fields. Rules across fields (label values without a gap) or other files are checked
only when a data set is read. Additional fields are allowed.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mdkd_auto.core.records import DEFAULT_TASK, SpacingFrom
from mdkd_auto.datasets.dataset_json import BACKGROUND, GROUP_NAME
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.formats.file_endings import ENDINGS


def _any_case(text: str) -> str:
    """Return a case-insensitive pattern: JSON schemas have no flag for it."""
    return "".join(f"[{sign}{sign.upper()}]" if sign.isalpha() else rf"\{sign}" for sign in text)


_CONTROL = "\\x00-\\x1f"
_NAME = rf"^[^=+@|${_CONTROL}-][^|${_CONTROL}]*$"
_ENDING = f"^({'|'.join(map(_any_case, ENDINGS))})?$"

Name = Annotated[str, Meta(pattern=_NAME)]
Value = Annotated[int, Meta(ge=0)]
Values = Annotated[list[Value], Meta(min_length=1)]
Length = Annotated[float, Meta(gt=0)]  # mm
Spacing = Annotated[list[Length], Meta(min_length=2, max_length=3)]
Ending = Annotated[str, Meta(pattern=_ENDING)]
Group = Annotated[str, Meta(pattern=f"^{GROUP_NAME.pattern}$")]


class CaseFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one case."""

    images: Annotated[list[str], Meta(min_length=1, description="One file per channel")]
    label: str


class DatasetFile(msgspec.Struct, frozen=True, kw_only=True):
    """dataset.json of a raw data set."""

    channel_names: Annotated[
        dict[Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]*)$")], Name],
        Meta(min_length=1, description='Channel numbers from 0, such as {"0": "T1", "1": "FLAIR"}'),
    ]
    task: Annotated[str, Meta(extra_json_schema={"enum": list(TASK_DATA)})] = DEFAULT_TASK
    labels: Annotated[
        dict[Name, Value | Values] | None,
        Meta(description="Classes and their values; several values make a region. Needed where masks are the truth"),
    ] = None
    regions_class_order: list[Value] | None = None
    file_ending: Annotated[
        Ending | None, Meta(description=f"Ending of images and masks: one of {', '.join(ENDINGS)}")
    ] = None
    group: Annotated[Group | None, Meta(description="Default: CT, CXR or MRI, by the channel names")] = None
    numTraining: Annotated[Value | None, Meta(description="Number of training cases")] = None
    spacing_mm: Annotated[Spacing | None, Meta(description="(y, x) or (z, y, x), of files that carry no spacing")] = (
        None
    )
    spacing_from: Annotated[
        SpacingFrom | None, Meta(description="Which spacing of a NIfTI header holds where they contradict each other")
    ] = None
    dataset: Annotated[
        dict[str, CaseFiles], Meta(description="Cases whose files do not follow the naming convention")
    ] = {}


def dataset_schema() -> dict[str, Any]:
    """The JSON schema of dataset.json."""
    schema = msgspec.json.schema(DatasetFile)
    with_masks = [task for task, data in TASK_DATA.items() if data.masks]
    needs_labels = {
        "required": ["labels", "file_ending"],
        "properties": {
            "labels": {"type": "object", "required": [BACKGROUND], "properties": {BACKGROUND: {"const": 0}}},
            "file_ending": {"type": "string", "minLength": 1},
        },
    }
    # A file without "task" also matches, as DEFAULT_TASK has masks.
    condition = {"properties": {"task": {"enum": with_masks}}}
    definition = schema["$defs"][DatasetFile.__name__]
    definition |= {"title": "dataset.json", "if": condition, "then": needs_labels}
    return schema
