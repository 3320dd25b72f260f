"""The records that travel between stages: frozen, JSON there and back, unknown fields refused.

Axes: an image in memory is (channel, z, y, x); a 2-D image has z = 1. Every tuple of three is (z, y, x).
"""

from typing import Literal, TypeVar

import msgspec

from mdkd_auto.core.errors import MdkdError

Task = str  # segmentation, classification, detection: docs/extending.md says how there may be more
DEFAULT_TASK: Task = "segmentation"  # of a dataset.json that names none, as nnU-Net's
Configuration = Literal["2d", "3d_fullres"]
SpacingFrom = Literal["sform", "qform", "pixdim"]  # what of a NIfTI header counts where they contradict each other

PatientBy = Literal["", "table", "annotations", "pattern", "name"]  # what names a case's patient; "": nothing

Triple = tuple[float, float, float]
IntTriple = tuple[int, int, int]


Part = TypeVar("Part")


class ByTask(dict[Task, Part]):
    """What each task brings to one room of the house. A task that is not there raises MdkdError."""

    def __missing__(self, task: Task) -> Part:
        raise MdkdError(f"no task {task!r}; there are {', '.join(self)}")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""


# --- raw data -------------------------------------------------------------------------------------------------------


class Box(Record, frozen=True, kw_only=True):
    """A box around one object of a 2-D image, in pixels of its file: x to the right, y down, (0, 0) the image's corner.

    It spans x to x + width and y to y + height, as COCO's ``bbox`` does.
    """

    class_name: str
    x: float
    y: float
    width: float
    height: float


class Case(Record, frozen=True, kw_only=True):
    """One image (all its channels) and, for training cases, its mask, class or boxes. Paths are absolute."""

    case_id: str
    images: tuple[str, ...]  # one file a channel
    label: str | None = None  # file of the mask
    class_name: str | None = None  # of a classification data set
    boxes: tuple[Box, ...] | None = None  # of a detection data set; () says that nothing is there
    spacing_mm: Triple | None = None  # that a table states for this image, whose file carries none
    spacing_from: SpacingFrom | None = None  # what its data set or the command line says
    patient_id: str  # the case_id where nothing names a patient
    patient_by: PatientBy = ""
    split: Literal["train", "val", "test", ""] = ""


class Dataset(Record, frozen=True, kw_only=True):
    """A raw data set as its dataset.json and cases.csv describe it."""

    name: str  # folder name: Dataset011_LungTumour
    folder: str
    task: Task
    modality: str  # MRI, CT, CXR or what dataset.json's ``group`` says
    channel_names: tuple[str, ...]
    labels: dict[str, tuple[int, ...]]  # class -> label values (several for a region); background and ignore left out
    regions_class_order: tuple[int, ...] = ()  # label value written for each class, in painting order; () = not regions
    ignore_label: int | None = None
    file_ending: str  # "": a classification or detection data set of several
    spacing_mm: Triple | None = None  # stated by dataset.json, for files that carry none
    spacing_from: SpacingFrom | None = None
    cases: tuple[Case, ...]

    @property
    def short_name(self) -> str:
        """The three digits: 011."""
        return self.name[7:10]

    @property
    def group(self) -> str:
        """Modality and task in one word, the name of the group's folders: CT_segmentation."""
        return f"{self.modality}_{self.task}"


# --- fingerprint ----------------------------------------------------------------------------------------------------


class Intensities(Record, frozen=True, kw_only=True):
    """Exact statistics of the foreground voxels of one channel (of one case, or pooled over a data set)."""

    count: int
    mean: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    median: float
    percentile_99_5: float


class Lesion(Record, frozen=True, kw_only=True):
    """One connected component (26-neighbourhood) of the foreground."""

    volume_mm3: float  # area in mm2 for 2-D images; pixels where the spacing is unknown
    diameter_mm: float  # of the sphere (disc in 2-D) of the same volume
    voxels: int
    largest_diameter_mm: float | None = None  # between the centres of its voxels; None for specks of 1 or 2 voxels


class CaseFingerprint(Record, frozen=True, kw_only=True):
    """What the planner needs to know of one case, in its canonical, untransposed orientation."""

    case_id: str
    source_hash: str  # of the image and label files: a changed file is fingerprinted anew
    voxel_hash: str  # of the first channel's values: the same image under another name has the same
    orientation: str  # where the file's own axes point, such as LPS; "" where unknown
    shape: IntTriple
    spacing_mm: Triple  # 1.0 an axis where unknown
    spacing_known: bool
    cropped_shape: IntTriple  # after cropping to non-zero
    nonzero_fraction: float  # cropped voxels / all voxels
    integer_valued: bool
    image_minimum: tuple[float, ...]  # one a channel
    image_maximum: tuple[float, ...]
    image_percentiles: tuple[tuple[float, float], ...]  # p0.5 and p99.5 of all voxels, a pair for each channel
    labelled_voxels: int  # not background, not ignore
    foreground: tuple[Intensities | None, ...]  # one a channel; None for an empty label
    lesions: tuple[Lesion, ...]
    boxes: tuple[tuple[float, float], ...] = ()  # of a detection case: height and width of each, pixels
    remarks: tuple[tuple[str, str, int], ...] = ()  # warnings: kind, what was found, channel (-1: the label)
    exif: tuple[int, ...] = ()  # orientations by which the channels' pictures were turned upright; () where none was
    picture_hash: str = ""  # of a classification case: alike for pictures that look the same (planners/near_duplicates)
    thumbnail_hash: str = ""  # of a case of another task: alike for slices and volumes that look the same


class Fingerprint(Record, frozen=True, kw_only=True):
    """Everything the planner knows of one data set; the test part enters no statistic."""

    dataset: str
    channel_names: tuple[str, ...]
    is_2d: bool  # every image, those of the test part too
    spacing_known: bool  # of every image, those of the test part too
    foreground: tuple[Intensities | None, ...]  # pooled exactly over the cases, one a channel
    cases: tuple[CaseFingerprint, ...]  # without the test part
    patients: int = 0  # of the cases
    classes: dict[str, int] = msgspec.field(default_factory=dict)  # of classification: cases of each; else boxes


# --- plan -----------------------------------------------------------------------------------------------------------


class Normalisation(Record, frozen=True, kw_only=True):
    """How one data set's intensities become network input.

    ``ct``: clip to [lower, upper], subtract mean, divide by std, all from the data set's foreground.
    ``zscore``: mean and std of each image, inside its non-zero mask if ``masked``.
    """

    scheme: Literal["ct", "zscore"]
    masked: bool = False
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0


class Reason(Record, frozen=True, kw_only=True):
    """One decision in words: what was decided, and why."""

    decision: str
    value: str
    because: str


class Topology(Record, frozen=True, kw_only=True):
    """The UNet of a configuration. One entry a stage, the first at full resolution, the last the bottleneck."""

    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]  # (y, x) in 2d, (z, y, x) in 3d_fullres
    strides: tuple[tuple[int, ...], ...]  # of each stage's first convolution; all ones for the first stage
    convolutions_per_stage: int = 2


class DatasetPlan(Record, frozen=True, kw_only=True):
    """What the group plan decides for one of its data sets."""

    dataset: str
    channel: int  # index of the one input channel
    channel_name: str
    transpose: IntTriple  # canonical axes (z, y, x) in the order used: the coarsest first
    assumed_spacing_mm: Triple | None = None  # for images without a physical spacing (canonical axis order)
    normalisation: Normalisation


class ConfigurationPlan(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Shared by every data set of the group that takes part in the configuration."""

    configuration: Configuration
    datasets: tuple[str, ...]  # those that take part
    spacing_mm: tuple[float, ...]  # (y, x) in 2d: each slice keeps its own z; (z, y, x) in 3d_fullres, transposed axes
    patch_size: tuple[int, ...]  # voxels, (y, x) or (z, y, x)
    batch_size: int
    topology: Topology
    whole_images: bool = False  # each image is resized to fit the patch, whatever its spacing; not for segmentation
    anchor_sizes: tuple[float, ...] = ()  # of detection: voxels, root of the area; one a level, the finest first
    anchor_ratios: tuple[float, ...] = ()  # height / width
    queries: int = 0  # of RF-DETR
    reasons: tuple[Reason, ...]


class Plan(Record, frozen=True, kw_only=True):
    """The group plan: decisions and their reasons."""

    group: str  # CT_segmentation
    modality: str
    task: Task
    memory_gb: float
    datasets: tuple[DatasetPlan, ...]
    configurations: tuple[ConfigurationPlan, ...]
    reasons: tuple[Reason, ...]  # those that concern the whole group: channel, transpose, spacing, normalisation

    def dataset(self, name: str) -> DatasetPlan:
        """The part of one data set. Raises KeyError."""
        return next(part for part in self.datasets if part.dataset == name)

    def configuration(self, name: str) -> ConfigurationPlan:
        """One configuration. Raises KeyError."""
        for part in self.configurations:
            if part.configuration == name:
                return part
        raise KeyError(name)


# --- preprocessed cases ---------------------------------------------------------------------------------------------


class CaseGeometry(Record, frozen=True, kw_only=True):
    """How a case was brought into network space, and so how a prediction is brought back.

    Order: canonical orientation -> transpose -> crop -> (normalise) -> resample.
    """

    original_shape: IntTriple  # canonical orientation, before the transpose
    transpose: IntTriple
    crop: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start, stop of each transposed axis
    spacing_mm: Triple  # transposed axes, before resampling (assumed spacing where the file has none)
    resampled_shape: IntTriple  # transposed axes
    resampled_spacing_mm: Triple


class LesionSample(Record, frozen=True, kw_only=True):
    """A connected component in the preprocessed case, and voxels of it to centre patches on."""

    label: int
    points: tuple[IntTriple, ...]  # (z, y, x), at most 64, drawn evenly


class StoredBox(Record, frozen=True, kw_only=True):
    """A true box in the preprocessed image."""

    label: int  # value of its class in dataset.json
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2, voxels from the image's corner


class PreprocessedCase(Record, frozen=True, kw_only=True):
    """The JSON beside a stored case."""

    case_id: str
    key: str  # hash of source files and of the decisions used: what matches is not done again
    geometry: CaseGeometry
    shape: IntTriple  # of the stored arrays, without channel
    lesions: tuple[LesionSample, ...]
    boxes: tuple[StoredBox, ...] | None = None  # of a detection case
    plan_key: str  # hash of the decisions alone


# --- splits ---------------------------------------------------------------------------------------------------------


class Fold(Record, frozen=True, kw_only=True):
    """Case identifiers."""

    train: tuple[str, ...]
    val: tuple[str, ...]


class Splits(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Cross-validation folds, and a test part that no training sees."""

    test: tuple[str, ...]
    folds: tuple[Fold, ...]
    patient_pattern: str = ""  # regular expression by which names say the patient; "": BIDS' sub-<label>
