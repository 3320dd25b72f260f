"""spacing_from of dataset.json, and --spacing-from: from the raw folder to masks and their scores."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import pytest

from mdkd_auto import pipeline, prediction
from mdkd_auto.cli import predict
from mdkd_auto.core.errors import DatasetError, ImageError
from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Normalisation, Topology
from mdkd_auto.datasets.case_reading import inspect_case
from mdkd_auto.datasets.raw_folder import inspect_dataset, read_dataset
from mdkd_auto.formats.read_write import read_image, write_mask
from mdkd_auto.planners.fingerprint import fingerprint_case
from mdkd_auto.preparation import verify
from mdkd_auto.preprocessing.dataset import plan_key
from mdkd_auto.tasks.segmentation.scoring import read_truth, score_mask_file
from mdkd_auto.tasks.shared.classes import classes_of
from mdkd_auto.tasks.shared.prediction import read_channel

NAME = "Dataset008_Hearts"
SOURCES = sorted((Path(__file__).parent.parent / "mdkd_auto").rglob("*.py"))
SHAPE = (8, 7, 5)  # x, y, z
KEY_BEFORE_THERE_WAS_A_RULE = "f25bcba2c4f16bd4805daf744f39703b95db06cc26a119cd3e4d3c79199e1d3f"


def write_contradicting(path: Path, voxels: Any) -> None:
    """The s-form says 1 mm along every axis; q-form and pixdim 1.5 x 1.5 x 8 mm."""
    image = nib.Nifti1Image(voxels, None)
    image.header.set_qform(np.diag([1.5, 1.5, 8, 1]), code=1)
    image.header["sform_code"] = 1
    for row, values in zip(("srow_x", "srow_y", "srow_z"), np.eye(4), strict=False):
        image.header[row] = values
    image.header["magic"], image.header["vox_offset"] = b"n+1", 352
    image.header.set_data_shape(voxels.shape)
    image.header.set_data_dtype(voxels.dtype)
    path.write_bytes(image.header.binaryblock + bytes(4) + voxels.tobytes(order="F"))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    folder = tmp_path / "raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        mask = np.zeros(SHAPE, dtype=np.uint8)
        mask[2:4, 1:4, 1 : 2 + number % 2] = 1  # 6 or 12 voxels
        write_contradicting(folder / "imagesTr" / f"h{number}_0000.nii", rng.integers(0, 900, SHAPE).astype(np.int16))
        write_contradicting(folder / "labelsTr" / f"h{number}.nii", mask)
    describe(folder)
    return Root(tmp_path)


def describe(folder: Path, **more: Any) -> None:
    fields = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "heart": 1}, "file_ending": ".nii", **more}
    (folder / "dataset.json").write_text(json.dumps(fields))


def test_without_the_field_every_file_is_an_error(root: Root) -> None:
    with pytest.raises(DatasetError, match="8 errors, 0 warnings"):
        verify(root)
    found = [one for one in read_json(root.integrity) if one["kind"] == "spacing-contradicts"]
    assert len(found) == 8
    assert all("s-form 1 x 1 x 1, q-form 1.5 x 1.5 x 8, pixdim 1.5 x 1.5 x 8 mm" in one["found"] for one in found)


@pytest.mark.parametrize(
    ("rule", "spacing", "volume"),
    [("sform", (1, 1, 1), 6.0), ("qform", (8, 1.5, 1.5), 108.0), ("pixdim", (8, 1.5, 1.5), 108.0)],
)
def test_the_field_decides_from_verification_to_scores(root: Root, rule: str, spacing: Any, volume: float) -> None:
    folder = root.raw / NAME
    describe(folder, spacing_from=rule)
    assert verify(root).problems == ()
    seen = read_json(root.preprocessed / NAME / "fingerprint_cache" / "h0.json")
    assert seen["spacing_mm"] == list(map(float, spacing))
    assert [lesion["volume_mm3"] for lesion in seen["lesions"]] == [volume]
    dataset = read_dataset(folder)
    case = dataset.cases[0]
    plan = DatasetPlan(
        dataset=NAME, channel=0, channel_name="T1", transpose=(0, 1, 2), normalisation=Normalisation(scheme="zscore")
    )
    image, truth = read_channel(case, plan), read_truth(case, dataset)
    assert image.spacing_mm == truth.spacing_mm == spacing
    write_mask(root.folder / "h0.nii", truth.array.astype(np.uint8), image.header)
    mask = read_image(root.folder / "h0.nii", spacing_from=case.spacing_from)
    assert mask.spacing_mm == spacing
    scored = score_mask_file(root.folder / "h0.nii", case, dataset, classes_of(dataset, keep_classes=False))
    assert [scores.dice for scores in scored.metrics.values()] == [1.0]


def test_another_rule_is_another_fingerprint(root: Root) -> None:
    folder = root.raw / NAME
    seen = []
    for rule in ("sform", "pixdim"):
        describe(folder, spacing_from=rule)
        dataset = read_dataset(folder)
        (root.folder / "cache").mkdir(exist_ok=True)
        found = fingerprint_case(dataset.cases[0], dataset, root.folder / "cache")
        assert not isinstance(found, list)
        seen.append(found.spacing_mm)
    assert seen == [(1, 1, 1), (8, 1.5, 1.5)]


def test_the_key_of_preprocessed_cases_has_the_rule_only_where_there_is_one(root: Root) -> None:
    folder = root.raw / NAME
    plan = DatasetPlan(
        dataset=NAME, channel=0, channel_name="T1", transpose=(0, 1, 2), normalisation=Normalisation(scheme="zscore")
    )
    topology = Topology(features=(8,), kernel_sizes=((3, 3),), strides=((1, 1),))
    flat = ConfigurationPlan(
        configuration="2d",
        datasets=(NAME,),
        spacing_mm=(1.0, 1.0),
        patch_size=(8, 8),
        batch_size=2,
        topology=topology,
        reasons=(),
    )
    describe(folder, spacing_from="sform")
    dataset = read_dataset(folder)
    without = msgspec.structs.replace(dataset, spacing_from=None)
    assert plan_key(dataset, plan, flat) != plan_key(without, plan, flat)
    assert plan_key(without, plan, flat) == KEY_BEFORE_THERE_WAS_A_RULE


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_every_reader_of_files_is_told_the_rule(file: Path) -> None:
    readers = {"read_image", "read_mask", "read_finite"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in readers:
            assert "spacing_from" in ast.unparse(node), f"line {node.lineno}"


@pytest.mark.parametrize("wrong", ["s-form", "", 1, ["sform"]])
def test_a_rule_that_is_none_is_refused(root: Root, wrong: Any) -> None:
    describe(root.raw / NAME, spacing_from=wrong)
    dataset, (problem,) = inspect_dataset(root.raw / NAME)
    assert dataset is None
    assert (problem.kind, "one of sform, qform, pixdim" in problem.remedy) == ("dataset-json-field", True)


@pytest.mark.parametrize("given", [[], ["--spacing-from", "pixdim"]])
def test_the_command_says_it_for_new_images(
    root: Root, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = root.raw / NAME / "imagesTr"
    plan = DatasetPlan(
        dataset=NAME, channel=0, channel_name="T1", transpose=(0, 1, 2), normalisation=Normalisation(scheme="zscore")
    )
    read = []

    def answer(asked: Any) -> Any:
        for case in asked.cases:
            try:
                read.append(read_channel(case, plan).spacing_mm)
            except ImageError as error:
                read.append((error.kind, "--spacing-from" in str(error)))
        return prediction.Outcome(len(read), 0, ())

    record = SimpleNamespace(channel_names={NAME: ("T1",)}, task="segmentation", ranges={})
    monkeypatch.setattr(prediction, "read_run", lambda run: record)
    monkeypatch.setattr(prediction, "load_predictor", lambda *_: SimpleNamespace(dataset_plan=plan))
    monkeypatch.setitem(prediction.TASK_ANSWERS, "segmentation", answer)
    monkeypatch.setattr(pipeline, "predict", prediction.predict)
    words = ["-i", str(images), "-o", str(tmp_path / "masks"), "-m", str(tmp_path), "--device", "cpu", *given]
    assert predict.main(words) == 0
    assert read == ([(8, 1.5, 1.5)] if given else [("spacing-contradicts", True)]) * 4


def test_labels_that_slicer_saved(tmp_path: Path) -> None:
    """Named case.seg.nrrd; a case whose own name ends in .seg is left alone."""
    folder = tmp_path / "Dataset009_Slicer"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    names = {"a": "a.seg.nrrd", "b": "b.nrrd", "c.seg": "c.seg.nrrd", "d.seg": "d.seg.seg.nrrd"}
    for case, label in names.items():
        for path in (folder / "imagesTr" / f"{case}_0000.nrrd", folder / "labelsTr" / label):
            path.write_bytes(
                b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nspacings: 1 1 1\n"
                b"Segment0_Name:=Heart\nSegment0_LabelValue:=1\n\n" + bytes(range(2)) * 4
            )
    describe(folder, file_ending=".nrrd")
    dataset, problems = inspect_dataset(folder)
    assert problems == []
    assert dataset is not None
    assert {case.case_id: Path(str(case.label)).name for case in dataset.cases} == names
    arrays, findings = inspect_case(dataset.cases[0], dataset)
    assert findings == []
    assert arrays is not None
    assert arrays.label is not None
    assert arrays.label.sum() == 4
    swapped = msgspec.structs.replace(dataset, labels={"heart": (2,), "lung": (1,)})
    _, (finding,) = inspect_case(dataset.cases[0], swapped)
    assert finding.kind == "label-names"
    assert "Heart = 1, the classes of dataset.json are heart = 2, lung = 1" in finding.found
