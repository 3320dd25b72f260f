"""Settings from defaults, a file and overrides; mistakes are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.errors import MdkdError, SettingsError
from mdkd_auto.settings import SETTINGS_OF_STAGE, Settings, load_settings, replace, settings_of_stage


def settings_file(folder: Path, content: Any) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps(content))
    return path


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = settings_file(tmp_path, {"epochs": 100, "width": 16, "learning_rate": 1})
    settings = load_settings(path, {"epochs": 7})
    assert (settings.epochs, settings.width, settings.learning_rate) == (7, 16, 1.0)
    assert settings.seed == Settings().seed
    assert load_settings(None, {}) == Settings()


def test_an_unknown_setting_is_named_with_the_allowed_ones(tmp_path: Path) -> None:
    path = settings_file(tmp_path, {"epoch": 100})
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {})
    for words in (str(path), "unknown setting epoch", "iterations_per_epoch"):
        assert words in str(caught.value)
    with pytest.raises(SettingsError, match=r"^settings: unknown setting epoch\."):
        load_settings(None, {"epoch": 100})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "many"), ("epochs", 1.5), ("width", True), ("augment", 1), ("fuse", "decoder"), ("seed", None)],
)
def test_a_wrong_type_is_named(tmp_path: Path, name: str, value: object) -> None:
    path = settings_file(tmp_path, {name: value})
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {})
    assert str(path) in str(caught.value)
    assert f"$.{name}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("iterations_per_epoch", -1), ("validation_batches", 0), ("learning_rate", 0.0),
        ("temperature_minimum", -0.1), ("gamma", -1.0), ("lesion_fraction", 1.5), ("width", 0), ("batch_size", 0),
        ("fold", -1), ("seed", -1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is {value}; it must"):
        load_settings(None, {name: value})


def test_a_file_that_holds_no_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected an object of settings"):
        load_settings(settings_file(tmp_path, [1, 2]), {})
    with pytest.raises(MdkdError, match="does not exist"):
        load_settings(tmp_path / "absent.json", {})


def test_every_setting_belongs_to_a_stage_or_changes_no_result() -> None:
    of_a_stage = {name for names in SETTINGS_OF_STAGE.values() for name in names}
    no_result = {"device", "checkpoint_minutes"}
    no_result |= {"fold", "teacher_architecture", "student_architecture", "width", "student_width", "pretrained"}
    no_result.add("label_fraction")
    # these two lines: what stands in a job's identity by itself
    assert of_a_stage | no_result == set(Settings.__struct_fields__)
    assert not of_a_stage & no_result


def test_a_stage_sees_only_its_own_settings() -> None:
    assert settings_of_stage(Settings(gamma=3.0), "student")["gamma"] == 3.0
    assert settings_of_stage(Settings(gamma=3.0), "teacher") == settings_of_stage(Settings(), "teacher")
    assert replace(Settings(), seed=4) == Settings(seed=4)
