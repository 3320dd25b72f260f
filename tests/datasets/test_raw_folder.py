import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdkd_auto.core.errors import DatasetError, PredictionError
from mdkd_auto.datasets.new_cases import find_cases
from mdkd_auto.datasets.raw_folder import find_datasets, find_folder, find_name, read_dataset

DESCRIPTION = {
    "channel_names": {"0": "FLAIR", "1": "T1"},
    "labels": {"background": 0, "oedema": 1, "core": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def make(folder, cases=("a", "b"), **fields):
    """A raw data set of empty files; a field given as None is left out."""
    description = {key: value for key, value in (DESCRIPTION | fields).items() if value is not None}
    ending = description.get("file_ending", ".nii.gz")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in cases:
        for channel in range(len(description.get("channel_names", "x"))):
            (folder / "imagesTr" / f"{case}_{channel:04d}{ending}").touch()
        (folder / "labelsTr" / f"{case}{ending}").touch()
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "Dataset001_Brain"


def test_reads_an_nnunet_folder(folder):
    dataset = read_dataset(make(folder, cases=("b", "a_0000")))
    assert dataset.name == "Dataset001_Brain"
    assert dataset.group == "MRI_segmentation"
    assert dataset.channel_names == ("FLAIR", "T1")
    assert dataset.labels == {"oedema": (1,), "core": (2,)}
    assert [case.case_id for case in dataset.cases] == ["a_0000", "b"]
    images = folder / "imagesTr"
    assert dataset.cases[1].images == (str(images / "b_0000.nii.gz"), str(images / "b_0001.nii.gz"))
    assert dataset.cases[1].label == str(folder / "labelsTr" / "b.nii.gz")
    assert (dataset.cases[1].patient_id, dataset.cases[1].split) == ("b", "")


def test_extra_fields_and_hidden_files_are_accepted(folder):
    make(folder, name="x", licence="y", overwrite_image_reader_writer="SimpleITKIO", tensorImageSize="3D")
    (folder / "imagesTr" / "._a_0000.nii.gz").touch()
    (folder / "imagesTr" / "notes.txt").touch()
    assert len(read_dataset(folder).cases) == 2


def test_regions_and_ignore(folder):
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    dataset = read_dataset(make(folder, labels=labels, regions_class_order=[1, 2]))
    assert dataset.labels == {"whole": (1, 2), "core": (2,)}
    assert dataset.regions_class_order == (1, 2)
    assert dataset.ignore_label == 3


@pytest.mark.parametrize(
    ("names", "group", "modality"),
    [
        (["ct"], None, "CT"),
        (["T1", "CT venous"], None, "CT"),
        (["CXR"], None, "CXR"),
        (["X-ray"], None, "CXR"),
        (["XRAY"], None, "CXR"),
        (["ADC"], None, "MRI"),
        (["direct"], None, "MRI"),
        (["CT"], "Ultrasound", "Ultrasound"),
    ],
)
def test_modality(folder, names, group, modality):
    channels = {str(number): name for number, name in enumerate(names)}
    assert read_dataset(make(folder, channel_names=channels, group=group)).modality == modality


def test_spacing_of_two_or_three_axes(tmp_path):
    assert read_dataset(make(tmp_path / "Dataset001_A", spacing_mm=[0.5, 0.4])).spacing_mm == (1.0, 0.5, 0.4)
    assert read_dataset(make(tmp_path / "Dataset002_B", spacing_mm=[3, 0.5, 0.4])).spacing_mm == (3.0, 0.5, 0.4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": {"background": 1, "x": 2}}, "'labels.background' is 1; expected 0"),
        ({"labels": {"x": 1}}, "'labels.background' is missing; expected 0"),
        ({"labels": {"0": "background", "1": "x"}}, "swap names and numbers"),
        ({"labels": {"background": 0, "x": 1, "y": 3}}, "without a gap"),
        ({"labels": {"background": 0, "x": 1, "y": 1}}, "value of its own"),
        ({"labels": {"background": 0, "x": "1"}}, "'labels.x' is '1'"),
        ({"labels": {"background": 0, "x": 1, "ignore": 5}}, "'labels.ignore'.*expected 2"),
        ({"labels": {"background": 0, "x": [1, 2], "y": 2}}, "'regions_class_order' is missing; expected a list of 2"),
        ({"channel_names": None}, "'channel_names' is missing"),
        ({"channel_names": ["T1"]}, "'channel_names'"),
        ({"channel_names": {"1": "T1"}}, "channel numbers from 0"),
        ({"channel_names": None, "modality": {"0": "T1"}}, "nnU-Net v2 field 'channel_names'.*rename"),
        ({"file_ending": "nii.gz"}, "'file_ending' is 'nii.gz'; expected one of .nii.gz"),
        ({"task": "segment"}, "'task' is 'segment'; expected one of segmentation"),
        ({"group": "a/b"}, "'group' is 'a/b'"),
        ({"spacing_mm": [1]}, "'spacing_mm'"),
        ({"spacing_mm": [1, 0]}, "positive"),
        ({"spacing_mm": "1 1"}, "'spacing_mm'"),
        ({"numTraining": "2"}, "'numTraining'"),
        ({"dataset": {"a": {"images": "x"}}}, "'dataset.a'"),
    ],
)
def test_wrong_fields_are_named(folder, fields, message):
    with pytest.raises(DatasetError, match=message) as error:
        read_dataset(make(folder, **fields))
    assert str(folder / "dataset.json") in str(error.value)


def test_mismatches_are_listed_together(folder):
    make(folder, cases=[f"c{number:02d}" for number in range(12)])
    (folder / "imagesTr" / "c00_0001.nii.gz").unlink()
    (folder / "imagesTr" / "c01_0002.nii.gz").touch()
    (folder / "imagesTr" / "plain.nii.gz").touch()
    (folder / "labelsTr" / "c02.nii.gz").unlink()
    (folder / "labelsTr" / "lonely.nii.gz").touch()
    with pytest.raises(DatasetError) as error:
        read_dataset(folder)
    for part in (
        "c00_0001.nii.gz: missing",
        "c01_0002.nii.gz: one channel too many",
        "imagesTr/plain.nii.gz: not",
        "labelsTr/c02.nii.gz: missing",
        "lonely.nii.gz: no image lonely_0000.nii.gz",
    ):
        assert part in str(error.value)
    for number in range(3, 12):
        (folder / "labelsTr" / f"c{number:02d}.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"and 4 more \(14 in all\)"):
        read_dataset(folder)


def test_empty_missing_and_badly_named(folder, tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "Dataset009_None")
    with pytest.raises(DatasetError, match="holds no files ending in"):
        read_dataset(make(folder, cases=()))
    with pytest.raises(DatasetError, match="DatasetNNN_Name"):
        read_dataset(make(tmp_path / "Brain"))
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="line 1"):
        read_dataset(folder)
    (folder / "dataset.json").write_text("[]")
    with pytest.raises(DatasetError, match="expected an object"):
        read_dataset(folder)


def test_number_of_cases_is_a_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        read_dataset(make(folder, numTraining=7))
    assert "numTraining 7, the folder holds 2" in caplog.text


def test_labels_of_jpeg_images_may_be_png(folder):
    make(folder, file_ending=".jpg", cases=("a",))
    (folder / "labelsTr" / "a.jpg").rename(folder / "labelsTr" / "a.png")
    assert read_dataset(folder).cases[0].label == str(folder / "labelsTr" / "a.png")


def test_dataset_entries(folder, tmp_path):
    make(tmp_path / "Dataset002_Other")
    entry = {
        "images": ["../Dataset002_Other/imagesTr/a_0000.nii.gz", "../Dataset002_Other/imagesTr/a_0001.nii.gz"],
        "label": "../Dataset002_Other/labelsTr/a.nii.gz",
    }
    (case,) = read_dataset(make(folder, cases=(), numTraining=1, dataset={"x": entry})).cases
    assert case.case_id == "x"
    assert case.images[1] == str(tmp_path / "Dataset002_Other" / "imagesTr" / "a_0001.nii.gz")
    entry["images"].append("gone.nii.gz")
    wrong = {"x": entry, ".y": entry}
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION | {"dataset": wrong}))
    with pytest.raises(DatasetError, match=r"lists 3 images for 2 channels") as error:
        read_dataset(folder)
    assert "gone.nii.gz: does not exist" in str(error.value)
    assert "begins with '.'" in str(error.value)


def test_cases_csv(folder):
    make(folder, cases=("a", "b", "c"))
    (folder / "cases.csv").write_bytes(
        "\ufeffcase_id,patient_id,split,age\r\n\r\na, p1 ,Test,61\r\n\r\nb,,train,7\r\n".encode()
    )
    a, b, c = read_dataset(folder).cases
    assert (a.patient_id, a.split) == ("p1", "test")
    assert (b.patient_id, b.split) == ("b", "train")
    assert (c.patient_id, c.split) == ("c", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,split\nz,test\n", "row 2: case_id 'z' is not among"),
        ("case_id,split\na,test\n\na,test\n", "row 4: case_id 'a' stands there twice"),
        ("case_id,split\na,holdout\n", "row 2: split 'holdout'; allowed are train, val, test"),
        ("case_id,split\na\n", "row 2: has 1 cells for 2 columns"),
        ("case_id|split\na|test\n", "separated by commas"),
        ("", "first row"),
    ],
)
def test_wrong_rows_are_named(folder, text, message):
    make(folder)
    (folder / "cases.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset(folder)


def test_find_datasets_shows_all_problems_and_reads_the_rest(tmp_path):
    make(tmp_path / "Dataset002_B")
    make(tmp_path / "Dataset001_A")
    make(tmp_path / "Dataset002_Twin")
    make(tmp_path / "Dataset003_Broken", file_ending=None)
    make(tmp_path / "misnamed")
    (tmp_path / "Dataset004_Empty").mkdir()
    (tmp_path / "notes").mkdir()
    boxes = make(tmp_path / "Dataset031_Boxes", task="detection", labels={"tumour": 1})
    for path in (boxes / "labelsTr").iterdir():
        path.unlink()
    (boxes / "cases.csv").write_text("case_id\nunknown\n")
    datasets, problems = find_datasets(tmp_path)
    assert [dataset.name for dataset in datasets] == ["Dataset001_A", "Dataset002_B", "Dataset031_Boxes"]
    assert datasets[2].cases == ()
    assert datasets[2].labels == {"tumour": (1,)}
    text = "\n".join(str(problem) for problem in problems)
    assert [problem.kind for problem in problems] == [
        "number-twice",
        "dataset-json-field",
        "dataset-json-missing",
        *["not-2d"] * 4,
        "annotations-missing",
        "cases-csv",
        "folder-name",
    ]
    for name in ("Dataset002_Twin: has the same number", "Dataset003_Broken", "Dataset004_Empty", "misnamed"):
        assert name in text
    with pytest.raises(DatasetError, match="raw folder does not exist"):
        find_datasets(tmp_path / "nowhere")


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_find_cases(tmp_path):
    touch(tmp_path, "b_0000.png", "b_0001.png", "a_0001.png", "a_0000.png", "notes.txt")
    a, b = find_cases(tmp_path, ".png", 2).cases
    assert (a.case_id, b.case_id) == ("a", "b")
    assert a.images == (str(tmp_path / "a_0000.png"), str(tmp_path / "a_0001.png"))
    assert a.label is None
    (tmp_path / "a_0000.png").unlink()
    touch(tmp_path, "plain.png")
    assert [case.images for case in find_cases(tmp_path, ".png", 2, needed=1).cases] == [
        (str(tmp_path / name),) for name in ("a_0001.png", "b_0001.png", "plain.png")
    ]
    with pytest.raises(PredictionError, match=r"a: channel _0000 is missing; found a_0001\.png"):
        find_cases(tmp_path, ".png", 2)
    with pytest.raises(PredictionError, match=r"no images named .*holds images ending in \.png"):
        find_cases(tmp_path, ".nii.gz", 1)


def test_find_cases_of_plain_names_and_one_file(tmp_path):
    touch(tmp_path, "patient_2023.nii.gz", "other.nii")
    (case,) = find_cases(tmp_path, ".nii.gz", 1).cases
    assert (case.case_id, case.patient_id) == ("patient_2023", "patient_2023")
    (case,) = find_cases(tmp_path / "other.nii", ".nii.gz", 1).cases
    assert (case.case_id, case.images) == ("other", (str(tmp_path / "other.nii"),))
    touch(tmp_path, "other_0000.nii.gz")
    with pytest.raises(PredictionError, match="both channel 0 of other"):
        find_cases(tmp_path, None, 1)
    with pytest.raises(PredictionError, match="neither a folder nor a file"):
        find_cases(tmp_path / "nowhere", ".nii.gz", 1)


def test_importing_stays_light():
    names = "('numpy', 'torch', 'nibabel')"
    code = "import sys, mdkd_auto.datasets.raw_folder, mdkd_auto.datasets.splits; "
    code += f"print([m for m in {names} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif("MDKD_REAL_DATA" not in os.environ, reason="MDKD_REAL_DATA does not name a raw folder")
def test_real_data():
    from mdkd_auto.formats.read_write import read_image, same_geometry

    datasets, problems = find_datasets(Path(os.environ["MDKD_REAL_DATA"]))
    assert problems == []
    for dataset in datasets:
        for case in dataset.cases[:3]:
            if dataset.task == "detection":
                assert case.boxes is not None
                assert read_image(Path(case.images[0]), colour_to_grey=True).array.ndim == 3
                continue
            if case.label is None:
                assert (dataset.task, case.class_name in dataset.labels) == ("classification", True)
                assert read_image(Path(case.images[0]), colour_to_grey=True).array.ndim == 3
                continue
            label = read_image(Path(case.label))
            for path in case.images:
                image = read_image(Path(path))
                assert same_geometry(image, label) is None, path
            assert set(label.array.ravel().tolist()) <= {0, *(v for values in dataset.labels.values() for v in values)}


@pytest.mark.parametrize("name", ["", "  "])
def test_a_data_set_without_a_name(tmp_path, monkeypatch, name):
    """A working folder that holds a data set is not meant by an empty path."""
    make(tmp_path / "Dataset001_Brain")
    monkeypatch.chdir(tmp_path / "Dataset001_Brain")
    with pytest.raises(DatasetError, match="the data set's name is empty; give its folder, or its name or number"):
        find_folder(name, tmp_path)
    with pytest.raises(DatasetError, match=r"the data set's name is empty; .*found: Dataset001_Brain"):
        find_name(name, ["Dataset001_Brain"])


def test_a_file_named_as_a_data_set_is_said(tmp_path):
    make(tmp_path / "Dataset001_A")
    for name in ("Dataset001_A.zip", "Dataset002_B.tar.gz", "dataset003", "notes.txt"):
        (tmp_path / name).touch()
    datasets, problems = find_datasets(tmp_path)
    assert [one.name for one in datasets] == ["Dataset001_A"]
    named = [Path(one.file).name for one in problems if one.kind == "data-set-is-a-file"]
    assert named == ["Dataset002_B.tar.gz", "dataset003"]  # the first is unpacked beside itself
