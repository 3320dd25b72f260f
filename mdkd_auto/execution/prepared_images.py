"""Images to score a run on, in network space: read once per command, resampled once when they are preprocessed.

Every network of a target is judged on the same images. Their voxels in network space lie in ``preprocessed/`` already;
what else predicting and writing need, the file's header, is kept from the first reading.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.records import Case, Triple
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.formats.read_write import Header
from mdkd_auto.preprocessing.case import Prepared
from mdkd_auto.preprocessing.case_store import image_path, open_image, read_case_record, record_path
from mdkd_auto.preprocessing.crop import permute
from mdkd_auto.preprocessing.dataset import case_key
from mdkd_auto.tasks.shared.prediction import read_channel
from mdkd_auto.tasks.shared.scored_part import Seen


class _Facts(NamedTuple):
    """What is kept of a file that was read."""

    header: Header
    spacing_mm: Triple
    spacing_known: bool


class SeenImages:
    """The images of a data set in one configuration."""

    def __init__(self) -> None:
        self._facts: dict[tuple[Case, str], _Facts] = {}  # by case and hash of its stored arrays

    def see(self, experiment: Experiment, dataset: str, case: Case, predictor: Any, colour_to_grey: bool) -> Seen:
        """The image of a case; ``predictor`` prepares it if it is not stored. Raises MdkdError if it is unreadable."""
        plan = experiment.plan.dataset(dataset)
        key = self._key(experiment, dataset, case)
        facts, image = self._facts.get((case, key)), None
        if facts is None:
            image = read_channel(case, plan, colour_to_grey)
            facts = _Facts(image.header, image.spacing_mm, image.spacing_known)
            self._facts[case, key] = facts
        expected = facts.spacing_mm if facts.spacing_known else plan.assumed_spacing_mm or (1.0, 1.0, 1.0)
        prepared = _stored(experiment.root.cases(dataset, experiment.configuration), case.case_id, key)
        if prepared is None or prepared.geometry.spacing_mm != permute(expected, plan.transpose):
            prepared = predictor.prepare(read_channel(case, plan, colour_to_grey) if image is None else image)
        return Seen(prepared, *facts)

    def _key(self, experiment: Experiment, dataset: str, case: Case) -> str:
        """Of the case as it is now: its stored arrays are of it where they have the same."""
        plans = experiment.plan.dataset(dataset), experiment.plan.configuration(experiment.configuration)
        return case_key(case, experiment.datasets[dataset], *plans, experiment.hashes(dataset))


def _stored(folder: Path, case_id: str, key: str) -> Prepared | None:
    """The stored case; None where there is none with this key, or it is damaged."""
    if not record_path(folder, case_id).is_file() or not image_path(folder, case_id).is_file():
        return None
    try:
        record = read_case_record(folder, case_id)
        if record.key != key:
            return None
        return Prepared(np.ascontiguousarray(open_image(folder, case_id)[0]), record.geometry)
    except (MdkdError, RuntimeError):
        return None


@functools.cache
def seen_images(folder: Path) -> SeenImages:
    """Those whose stored cases lie in ``folder``, once per process."""
    return SeenImages()
