import filecmp
from pathlib import Path

import numpy as np
import pytest

from mdkd_auto.datasets.case_reading import read_case_arrays
from mdkd_auto.datasets.new_cases import find_cases
from mdkd_auto.datasets.raw_folder import find_datasets, read_dataset
from mdkd_auto.demo.phantoms import LOOKS, volume, write_datasets, write_new_images


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_datasets(folder, cases=3)
    return folder


def test_they_are_data_sets(raw: Path) -> None:
    datasets, problems = find_datasets(raw)
    assert problems == []
    assert [dataset.name for dataset in datasets] == [look.name for look in LOOKS]
    assert {dataset.group for dataset in datasets} == {"CT_segmentation"}
    for dataset, look in zip(datasets, LOOKS, strict=True):
        assert len(dataset.cases) == 3
        for case in dataset.cases:
            arrays = read_case_arrays(case, dataset)  # raises for undeclared values and grids that differ
            assert arrays.label is not None
            assert arrays.channels[0].shape == arrays.label.shape == look.shape
            assert arrays.spacing_mm == pytest.approx(look.spacing_mm)
            assert arrays.channels[0].min() >= -1024
            assert arrays.label.any()


def test_every_lesion_lies_in_the_body(raw: Path) -> None:
    for look in LOOKS:
        dataset = read_dataset(raw / look.name)
        for case in dataset.cases:
            arrays = read_case_arrays(case, dataset)
            assert arrays.label is not None
            dense = ((arrays.channels[0] > -500) & (arrays.label == 0)).any(0)  # the body is the same in every slice
            body = np.maximum.accumulate(dense, axis=1) & np.maximum.accumulate(dense[:, ::-1], axis=1)[:, ::-1]
            assert not (arrays.label.any(0) & ~body).any()
            assert 0.3 < body.mean() < 0.8


def test_data_sets_differ_as_scanners_and_diseases_do(raw: Path) -> None:
    assert len({look.spacing_mm for look in LOOKS}) == len({look.shape for look in LOOKS}) == 3
    contrast = {}
    for look in LOOKS:
        dataset = read_dataset(raw / look.name)
        differences = []
        for case in dataset.cases:
            arrays = read_case_arrays(case, dataset)
            image, label = arrays.channels[0] / look.scale, arrays.label
            tissue = (image > -100) & (image < 180) & (label == 0)
            differences.append(np.median(image[label == 1]) - np.median(image[tissue]))
        contrast[look.name] = np.mean(differences)
    for look in LOOKS:
        assert contrast[look.name] == pytest.approx(look.contrast_hu, abs=20)


def test_the_same_seed_gives_the_same_voxels(tmp_path: Path, raw: Path) -> None:
    write_datasets(tmp_path, (LOOKS[0],), cases=1)
    for part in ("imagesTr/case_000_0000.nii.gz", "labelsTr/case_000.nii.gz"):
        assert filecmp.cmp(tmp_path / LOOKS[0].name / part, raw / LOOKS[0].name / part, shallow=False)
    first, second = (volume(LOOKS[0], np.random.default_rng(seed))[0] for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_new_images_have_no_labels(tmp_path: Path) -> None:
    write_new_images(tmp_path, LOOKS[1], cases=2)
    cases = find_cases(tmp_path, ".nii.gz", 1).cases
    assert [case.case_id for case in cases] == ["new_000", "new_001"]
    assert all(case.label is None for case in cases)
