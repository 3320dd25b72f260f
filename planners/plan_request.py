"""What the user requests of a plan: one record from the command line to the planners."""

from collections.abc import Mapping

from mdkd_auto.core.records import Configuration, IntTriple, Record, Triple

DEFAULT_MEMORY_GB = 8.0


class PlanRequest(Record, frozen=True, kw_only=True):
    """The user's choices; each default leaves the decision to the rules.

    Triples are (z, y, x) of the transposed axes; a 2-D configuration takes the last two numbers.
    """

    configurations: tuple[Configuration, ...] = ()  # to preprocess; () = all of the plan
    memory_gb: float = DEFAULT_MEMORY_GB  # of the GPU to plan for
    spacing_mm: Triple | None = None  # target spacing
    patch_size: IntTriple | None = None  # voxels; segmentation groups
    input_size: int | None = None  # voxels per side; classification and detection groups
    test_fraction: float | None = None  # held-out fraction of the patients, 0.2 if None
    channels: Mapping[str, str] = {}  # data set -> name or index of its input channel
    replan: bool = False  # ignore the earlier plan, and splits that divide a patient
    exclude_broken: bool = False  # skip cases with errors instead of stopping
    allow_duplicates: bool = False  # accept near-duplicates in both training and test set
    patient_pattern: str | None = None  # regular expression for the patient in case names, instead of the stored one
