"""Images to score on: from where they lie in network space, and read once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Case
from mdkd_auto.core.settings import Settings
from mdkd_auto.execution import prepared_images as module
from mdkd_auto.execution.prepared_images import SeenImages
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.preprocessing.case import Prepared, prepare_image
from mdkd_auto.preprocessing.case_store import image_path, read_case_record, record_path
from mdkd_auto.tasks.shared.prediction import read_channel
from mdkd_auto.tasks.shared.scored_part import Seen

A, B = "Dataset901_RoundBright", "Dataset902_FlatFaint"


class Preparing:
    """As predictors prepare; counts."""

    def __init__(self, experiment: Experiment, dataset: str) -> None:
        self.plans = experiment.plan.dataset(dataset), experiment.plan.configuration(experiment.configuration)
        self.count = 0

    def prepare(self, image: Any) -> Prepared:
        self.count += 1
        return prepare_image(image, *self.plans)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases whose image was read from the raw folder."""
    names: list[str] = []

    def counted(case: Case, *rest: Any) -> Any:
        names.append(case.case_id)
        return read_channel(case, *rest)

    monkeypatch.setattr(module, "read_channel", counted)
    return names


def same(seen: Seen, case: Case, experiment: Experiment, dataset: str) -> bool:
    """Whether all is as from the file itself, bit for bit."""
    image = read_channel(case, experiment.plan.dataset(dataset))
    expected = Preparing(experiment, dataset).prepare(image)
    assert (seen.spacing_mm, seen.spacing_known) == (image.spacing_mm, image.spacing_known)
    assert seen.header.shape == image.header.shape
    return seen.prepared.voxels.tobytes() == expected.voxels.tobytes() and seen.prepared.geometry == expected.geometry


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("dataset", [A, B])
def test_a_stored_case_is_what_prediction_would_make_of_the_file(
    planned: Root, experiment_in: Callable[..., Experiment], read: list[str], configuration: str, dataset: str
) -> None:
    """B's slices are resampled. The second network finds the image without a look at the raw file."""
    experiment = experiment_in(planned, Settings(device="cpu"), configuration)
    images, predictor = SeenImages(), Preparing(experiment, dataset)
    for case in experiment.datasets[dataset].cases:
        for _ in range(2):
            assert same(images.see(experiment, dataset, case, predictor, False), case, experiment, dataset)
    assert read == [case.case_id for case in experiment.datasets[dataset].cases]
    assert predictor.count == 0


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("spoil", ["image gone", "image damaged", "record gone", "another key", "raw file changed"])
def test_else_the_image_is_prepared_from_its_file(
    planned: Root, copied: Callable[[Root], Root], experiment_in: Callable[..., Experiment], spoil: str
) -> None:
    root = copied(planned)
    experiment = experiment_in(root)
    case, folder = experiment.datasets[A].cases[0], root.cases(A, "2d")
    record = read_case_record(folder, case.case_id)
    if spoil == "image gone":
        image_path(folder, case.case_id).unlink()
    elif spoil == "image damaged":
        damage(image_path(folder, case.case_id))
    elif spoil == "record gone":
        record_path(folder, case.case_id).unlink()
    elif spoil == "another key":
        write_json(record_path(folder, case.case_id), {**_fields(record), "key": "another"})
    else:
        stored = nib.load(case.images[0])
        nib.save(nib.Nifti1Image(np.asarray(stored.dataobj)[::-1], stored.affine), case.images[0])
    predictor = Preparing(experiment, A)
    assert same(SeenImages().see(experiment, A, case, predictor, False), case, experiment, A)
    assert predictor.count == 1


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
