"""What predicting has in common for all tasks: its options, the channel that is read, the file that is written."""

from pathlib import Path
from typing import NamedTuple

import torch

from mdkd_auto.core.errors import PredictionError
from mdkd_auto.core.records import Case, DatasetPlan
from mdkd_auto.datasets.case_reading import read_finite
from mdkd_auto.formats.read_write import Image, image_ending, output_ending

NOT_FINITE = (
    "the model's answer is NaN or infinite; expected finite numbers. Look at the image for absurd values; if it is "
    "sound, the weights are not: train again with a lower --lr"
)


class PredictionOptions(NamedTuple):
    """How a prediction is made; the same weights serve every choice."""

    device: torch.device
    step: float = 0.5  # of the sliding window, in patches
    mirror: bool = False
    low_precision: bool = False


def mask_ending(case: Case) -> str:
    """The ending of the mask that belongs to an image."""
    return output_ending(image_ending(case.images[0]))


def read_channel(case: Case, dataset_plan: DatasetPlan, colour_to_grey: bool = False) -> Image:
    """The one channel that the plan uses; a case of a single file is taken to be that channel."""
    files = case.images
    if len(files) > 1 and dataset_plan.channel >= len(files):
        raise PredictionError(
            f"{case.case_id}: the model reads channel {dataset_plan.channel} ({dataset_plan.channel_name}), "
            f"found only {len(files)} channels"
        )
    file = Path(files[dataset_plan.channel] if len(files) > 1 else files[0])
    return read_finite(file, colour_to_grey, case.spacing_from)
