"""A data set preprocessed: stored, resumed, and undisturbed by a bad case."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image as PillowImage

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.records import Case, ConfigurationPlan, Dataset, DatasetPlan, Normalisation, Plan, Topology
from mdkd_auto.preprocessing.case_store import open_image, open_label, read_case_record, record_path
from mdkd_auto.preprocessing.dataset import preprocess_dataset


def picture_case(folder: Path, name: str, seed: int) -> Case:
    """32 x 40 pixels with a square lesion of 12 x 12."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[8:20, 8:20] = 1
    PillowImage.fromarray(rng.integers(1, 255, (32, 40), dtype=np.uint8)).save(folder / f"{name}_0000.png")
    PillowImage.fromarray(mask).save(folder / f"{name}.png")
    image, label = str(folder / f"{name}_0000.png"), str(folder / f"{name}.png")
    return Case(case_id=name, images=(image,), label=label, patient_id=name)


def pictures(folder: Path, *cases: Case) -> Dataset:
    return Dataset(
        name="Dataset011_Toy",
        folder=str(folder),
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={"lesion": (1,)},
        file_ending=".png",
        cases=cases,
    )


def make_plan(spacing: float = 1.0) -> Plan:
    return Plan(
        group="CT_segmentation",
        modality="CT",
        task="segmentation",
        memory_gb=8.0,
        datasets=(
            DatasetPlan(
                dataset="Dataset011_Toy",
                channel=0,
                channel_name="CT",
                transpose=(0, 1, 2),
                assumed_spacing_mm=(1.0, 1.5, 1.5),
                normalisation=Normalisation(scheme="zscore"),
            ),
        ),
        configurations=(
            ConfigurationPlan(
                configuration="2d",
                datasets=("Dataset011_Toy",),
                spacing_mm=(spacing, spacing),
                patch_size=(16, 16),
                batch_size=4,
                topology=Topology(features=(8,), kernel_sizes=((3, 3),), strides=((1, 1),)),
                reasons=(),
            ),
        ),
        reasons=(),
    )


def test_stored_resumed_and_redone_when_a_decision_changes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dataset = pictures(tmp_path, picture_case(tmp_path, "a", 1), picture_case(tmp_path, "b", 2))
    assert preprocess_dataset(dataset, make_plan(), "2d", out).done == 2
    image, label = open_image(out, "a"), open_label(out, "a")
    assert image.shape == (1, 1, 48, 60)
    assert (image.dtype, label.dtype) == (np.float32, np.int8)
    assert image[0, 0, 10:26, 10:26].shape == (16, 16)
    assert int(label[:].sum()) == 18 * 18
    record = read_case_record(out, "a")
    assert record.shape == (1, 48, 60)
    (lesion,) = record.lesions
    assert len(lesion.points) == 64

    again = preprocess_dataset(dataset, make_plan(), "2d", out)
    assert (again.done, again.skipped) == (0, 2)
    more = msgspec.structs.replace(dataset, cases=(*dataset.cases, picture_case(tmp_path, "c", 3)))
    added = preprocess_dataset(more, make_plan(), "2d", out)
    assert (added.done, added.skipped) == (1, 2)
    picture_case(tmp_path, "a", 9)  # a changed file
    changed = preprocess_dataset(more, make_plan(), "2d", out)
    assert (changed.done, changed.skipped) == (1, 2)
    assert preprocess_dataset(more, make_plan(1.2), "2d", out).done == 3
    record_path(out, "b").write_text("{broken")
    assert preprocess_dataset(more, make_plan(1.2), "2d", out).done == 1
    assert not list(out.glob(".tmp*"))


def test_a_bad_case_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    dataset = pictures(tmp_path, *(picture_case(tmp_path, name, 1) for name in "abc"))
    (tmp_path / "b.png").write_bytes(b"not a picture")
    seen: list[tuple[int, int]] = []
    outcome = preprocess_dataset(
        dataset, make_plan(), "2d", tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert (outcome.done, outcome.skipped) == (2, 0)
    ((name, problem),) = outcome.failed
    assert name == "b"
    assert "b.png" in problem
    assert seen[-1] == (3, 3)
    with pytest.raises(MdkdError, match="preprocess the data set first"):
        open_image(tmp_path / "out", "b")


def test_workers_store_the_same(tmp_path: Path) -> None:
    dataset = pictures(tmp_path, *(picture_case(tmp_path, name, seed) for seed, name in enumerate("abc")))
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert preprocess_dataset(dataset, make_plan(), "2d", alone, workers=1).done == 3
    assert preprocess_dataset(dataset, make_plan(), "2d", together, workers=2).done == 3
    for name in "abc":
        assert read_case_record(alone, name) == read_case_record(together, name)
        assert np.allclose(open_image(alone, name)[:], open_image(together, name)[:], atol=1e-5)
