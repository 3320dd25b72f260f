"""Settings from defaults, a file and overrides; mistakes are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.core.errors import MdkdError, SettingsError
from mdkd_auto.core.presets import PRESETS
from mdkd_auto.core.records import Task
from mdkd_auto.core.settings import (
    CLASSIFICATION_OF_STAGE,
    DETECTION_OF_STAGE,
    ClassificationSettings,
    DetectionSettings,
    Settings,
    load_settings,
    replace,
)


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
        ("epochs", 0),
        ("iterations_per_epoch", -1),
        ("validation_batches", 0),
        ("learning_rate", 0.0),
        ("temperature_minimum", -0.1),
        ("gamma", -1.0),
        ("lesion_fraction", 1.5),
        ("width", 0),
        ("batch_size", 0),
        ("fold", -1),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is {value}; it must"):
        load_settings(None, {name: value})


def test_a_file_that_holds_no_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected an object of settings"):
        load_settings(settings_file(tmp_path, [1, 2]), {})
    with pytest.raises(MdkdError, match="does not exist"):
        load_settings(tmp_path / "absent.json", {})


def test_every_setting_of_classification_belongs_to_a_stage_or_to_all() -> None:
    of_a_stage = {name for names in CLASSIFICATION_OF_STAGE.values() for name in names}
    taken_over = {"beta", "gamma", "delta"}  # in the place of the settings of the same name
    networks = {"architecture", "architecture_of"}  # stand in a job's identity by themselves
    assert of_a_stage | taken_over | networks == set(ClassificationSettings.__struct_fields__)


def test_every_setting_of_detection_is_the_students_or_stands_for_another() -> None:
    taken_over = {"beta", "gamma", "delta", "gradient_clip_norm", "architecture"}
    assert set(DETECTION_OF_STAGE["student"]) | taken_over == set(DetectionSettings.__struct_fields__)
    own = DetectionSettings(beta=0.1, gamma=0.2, delta=0.3, gradient_clip_norm=4, architecture="rfdetr_tiny")
    settings = Settings(detection=own).for_task("detection")
    assert (settings.beta, settings.gamma, settings.delta, settings.gradient_clip_norm) == (0.1, 0.2, 0.3, 4)
    assert (settings.teacher_architecture, settings.ramp) == ("rfdetr_tiny", "cosine")


def test_what_a_classification_group_takes_instead() -> None:
    settings = Settings(gamma=3.0).for_task("classification")
    assert (settings.beta, settings.gamma, settings.delta) == (0.0, 0.5, 1.0)
    assert settings.teacher_architecture == "medvit_small"
    assert Settings().for_task("segmentation").teacher_architecture == "unet"
    assert Settings(teacher_architecture="unet").for_task("classification").teacher_architecture == "unet"
    named = replace(Settings(), **{"classification.distilled": "early-1", "seed": 4})
    assert (named.classification.distilled, named.seed) == ("early-1", 4)


@pytest.mark.parametrize(
    "wrong",
    [{"dropout": 1.0}, {"joint_channels": 12}, {"distilled": "middle-1"}, {"logits": -1}, {"logits_temperature": 0}],
)
def test_impossible_settings_of_classification(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=f"classification.{name}"):
        load_settings(None, {"classification": wrong})


PAPER = {  # network, dropout, attention dropout, rate, decay, joint_ch, joint rate and decay, student's rate and decay
    "covidx": ("medvit_large", 0, 0, 1e-5, 1e-2, 256, 1e-4, 0, 1e-4, 1e-2),
    "rtpcr": ("medvit_large", 0, 0, 5e-5, 1e-2, 256, 1e-4, 1e-2, 1e-4, 1e-2),
    "covid-qu-ex": ("medvit_large", 0.3, 0.2, 5e-5, 0.5, 256, 1e-4, 1e-2, 1e-4, 0.5),
    "oasis": ("efficientnet_b0", 0.3, 0, 1e-4, 1e-2, 1024, 1e-5, 0.5, 1e-4, 1e-2),
    "adni": ("medvit_small", 0.3, 0.2, 1e-4, 1e-2, 1024, 5e-5, 1e-2, 1e-4, 1e-2),
}  # the student's decay is the teacher's: it is not in the paper's tables


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_papers(name: str) -> None:
    settings = load_settings(None, {}, name)
    own = settings.classification
    teacher, joint, student = (
        settings.for_stage(stage, "classification") for stage in ("teacher", "joint_teacher", "student")
    )
    assert PAPER[name] == (
        own.architecture,
        own.dropout,
        own.attention_dropout,
        teacher.learning_rate,
        teacher.weight_decay,
        own.joint_channels,
        joint.learning_rate,
        joint.weight_decay,
        student.learning_rate,
        student.weight_decay,
    )
    assert (own.fusion_blocks, own.logits_temperature) == (3, 1)
    used = settings.for_task("classification")
    assert (used.alpha, own.logits, used.gamma, used.delta, used.beta) == (1, 0.5, 0.5, 1, 0)


def test_a_file_and_flags_change_a_preset(tmp_path: Path) -> None:
    changed = load_settings(settings_file(tmp_path, {"classification": {"dropout": 0.1}}), {"seed": 2}, "oasis")
    assert (changed.classification.dropout, changed.classification.joint_channels, changed.seed) == (0.1, 1024, 2)
    assert changed.classification.architecture == "efficientnet_b0"
    with pytest.raises(SettingsError, match="no preset 'covid'; there are covidx, rtpcr"):
        load_settings(None, {}, "covid")


WITHOUT_EFFECT: dict[Task, dict[str, Any]] = {
    "segmentation": {},
    "classification": {"fuse": "encoder", "attention_keys": 2, "keep_classes": True, "task_loss": "dice", "gamma": 3.0},
    "detection": {
        "fuse": "encoder",
        "attention_keys": 2,
        "keep_classes": True,
        "gradient_clip_norm": 3.0,
        "best_by": "score",
        "task_loss": "paper",
        "beta": 3.0,
    },
}


@pytest.mark.parametrize("task", WITHOUT_EFFECT)
def test_settings_that_a_task_does_not_use_change_no_stage(task: Task) -> None:
    changed = Settings(**WITHOUT_EFFECT[task])
    assert changed.for_task(task) == Settings().for_task(task)
    assert set(changed.without_effect(task)) == set(WITHOUT_EFFECT[task]) - {"best_by"}  # which is the task's own
    assert Settings(seed=1, discriminator="pooled", lesion_fraction=0.5, width=4).without_effect(task) == []


def test_classification_reads_of_task_loss_which_stages_are_weighted() -> None:
    assert Settings(task_loss="paper").without_effect("classification") == []
    assert Settings(task_loss="paper").for_task("classification").task_loss == "paper"
