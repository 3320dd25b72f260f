"""The schemas accept what the program reads, and refuse what it refuses, as far as one field decides."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mdkd_auto.cli import doctor
from mdkd_auto.core.presets import PRESETS
from mdkd_auto.core.settings import load_settings
from mdkd_auto.datasets.dataset_json import read_description
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.demo.phantoms import LOOKS, PICTURES, SCENES, write_datasets, write_detection_datasets, write_pictures
from mdkd_auto.doctor.schemas import SCHEMAS, schema

SOUND: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "tumour": 1},
    "file_ending": ".nii.gz",
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "more fields than are read": {"name": "Tumour", "licence": "CC-BY 4.0", "overwrite_image_reader_writer": "x"},
    "ending in capitals": {"file_ending": ".PNG"},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]},
    "spacing": {"spacing_mm": [0.5, 0.5], "spacing_from": "sform", "group": "MRI", "numTraining": 3},
    "cases": {"dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}},
    "classes": {"task": "classification", "labels": {"normal": 0, "ill": 1}, "file_ending": None},
    "boxes": {"task": "detection", "labels": None, "file_ending": ""},
}
REFUSED: dict[str, dict[str, Any]] = {
    "no channels": {"channel_names": {}},
    "channels by name": {"channel_names": {"T1": "0"}},
    "a formula as a name": {"channel_names": {"0": "=1+1"}},
    "no labels": {"labels": None},
    "background is not 0": {"labels": {"background": 1, "tumour": 2}},
    "negative value": {"labels": {"background": 0, "tumour": -1}},
    "unknown ending": {"file_ending": ".dcm"},
    "unknown task": {"task": "registration"},
    "a group with a slash": {"group": "../MRI"},
    "one spacing": {"spacing_mm": [1.0]},
    "spacing 0": {"spacing_mm": [1.0, 0.0]},
    "unknown header": {"spacing_from": "guess"},
    "case without label": {"dataset": {"a": {"images": ["a_0000.nii.gz"]}}},
    "number as text": {"numTraining": "12"},
}


def errors(name: str, content: object) -> list[str]:
    return [error.message for error in Draft202012Validator(schema(name)).iter_errors(content)]


def is_read(folder: Path, content: object) -> bool:
    path = folder / "dataset.json"
    path.write_text(json.dumps(content))
    description, findings = read_description(path, TASK_DATA)
    assert (description is None) == bool(findings)
    return description is not None


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_sound_and_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Draft202012Validator.check_schema(schema(name))
    assert doctor.main(["--schema", name]) == 0
    assert json.loads(capsys.readouterr().out) == schema(name)
    assert tuple(SCHEMAS) == doctor.SCHEMA_NAMES


@pytest.mark.parametrize("case", ACCEPTED)
def test_both_accept(case: str, tmp_path: Path) -> None:
    content = SOUND | ACCEPTED[case]
    assert errors("dataset", content) == []
    assert is_read(tmp_path, content)


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse(case: str, tmp_path: Path) -> None:
    content = SOUND | REFUSED[case]
    assert errors("dataset", content)
    assert not is_read(tmp_path, content)


def test_data_sets_of_every_task_are_accepted(tmp_path: Path) -> None:
    write_datasets(tmp_path, LOOKS[:1], cases=1)
    write_pictures(tmp_path, PICTURES[:1], cases=2)
    write_detection_datasets(tmp_path, SCENES[:1], cases=1)
    written = sorted(tmp_path.glob("*/dataset.json"))
    assert len(written) == 3
    for path in written:
        assert errors("dataset", json.loads(path.read_text())) == []


def test_settings_files(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    sound = [{}, {"epochs": 20, "classification": {"dropout": 0.3}}, {"width": None}, *PRESETS.values()]
    for content in sound:
        assert errors("settings", content) == []
        path.write_text(json.dumps(content))
        load_settings(path, {})
    unknown, wrong_kind, wrong_word = {"epoch": 20}, {"epochs": "many"}, {"precision": "fp16"}
    assert "'epoch' was unexpected" in errors("settings", unknown)[0]
    for content in (unknown, wrong_kind, wrong_word):
        assert len(errors("settings", content)) == 1
