"""Plans and run folders that make no sense are refused by field before anything is built of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.errors import PlanError, PredictionError, SettingsError
from mdkd_auto.experiments.runs import read_run
from mdkd_auto.files import to_json_text
from mdkd_auto.limits import faults_of_plan, read_plan
from mdkd_auto.records import ConfigurationPlan, DatasetPlan, Normalisation, Plan, Topology
from mdkd_auto.settings import Settings, load_settings

NAME, SOURCE = "Dataset011_Target", "Dataset012_Source"


def configuration(axes: int = 2) -> ConfigurationPlan:
    topology = Topology(
        features=(8, 16, 32), kernel_sizes=((3,) * axes,) * 3, strides=((1,) * axes, (2,) * axes, (2,) * axes)
    )
    return ConfigurationPlan(
        configuration="2d" if axes == 2 else "3d_fullres", datasets=(NAME, SOURCE), spacing_mm=(1.0,) * axes,
        patch_size=(32,) * axes, batch_size=4, topology=topology, reasons=(),
    )  # fmt: skip


def dataset_plan(name: str = NAME) -> DatasetPlan:
    scale = Normalisation(scheme="ct", lower=-100, upper=300, mean=20, std=50)
    return DatasetPlan(dataset=name, channel=0, channel_name="CT", transpose=(0, 1, 2), normalisation=scale)


def plan() -> Plan:
    return Plan(
        group="CT_segmentation", modality="CT", task="segmentation", memory_gb=8.0, reasons=(),
        datasets=(dataset_plan(), dataset_plan(SOURCE)), configurations=(configuration(), configuration(3)),
    )  # fmt: skip


def run_json(task: str) -> dict[str, Any]:
    architecture = {"segmentation": "unet", "classification": "medvit_small", "detection": "faster_rcnn_small"}[task]
    job = {
        "stage": "student", "target": NAME, "sources": [SOURCE], "group": "CT", "configuration": "2d", "fold": 0,
        "architecture": architecture, "width": None, "folder": "a/b/fold_0", "reads": [], "identity": {},
    }  # fmt: skip
    classes = {"channels": [{"name": "lesion", "values": [1], "written": 1}], "regions": False, "ignore": None}
    return json.loads(to_json_text({
        "version": "1.0", "job": job, "plan": configuration(), "settings": Settings(), "task": task,
        "dataset_plans": {name: dataset_plan(name) for name in (NAME, SOURCE)},
        "classes": dict.fromkeys((NAME, SOURCE), classes), "channel_names": {name: ["CT"] for name in (NAME, SOURCE)},
        "file_endings": dict.fromkeys((NAME, SOURCE), ".nii.gz"),
    }))  # fmt: skip


def changed(content: Any, place: str, value: object) -> Any:
    """``content`` with the value at a place such as ``plan/patch_size/0``."""
    first, _, rest = place.partition("/")
    key: Any = int(first) if isinstance(content, list) else first
    new = changed(content[key], rest, value) if rest else value
    if isinstance(content, list):
        return [new if index == key else one for index, one in enumerate(content)]
    return {**content, key: new}


@pytest.mark.parametrize("task", ["segmentation", "classification", "detection"])
def test_a_sound_run_is_read(tmp_path: Path, task: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run_json(task)))
    assert read_run(tmp_path).task == task


NO_SENSE: list[tuple[str, object, str]] = [  # place, value, words
    ("plan/spacing_mm/0", -1.0, "plan.spacing_mm is (-1.0, 1.0); expected 2 numbers from 1e-05 to 10000"),
    ("plan/spacing_mm/1", 0, "plan.spacing_mm is (1.0, 0.0)"),
    ("plan/spacing_mm/0", 1e9, "plan.spacing_mm is (1000000000.0, 1.0)"),
    ("plan/spacing_mm", [1.0], "plan.spacing_mm is (1.0,)"),
    ("plan/spacing_mm", [], "plan.spacing_mm is ()"),
    ("plan/patch_size/0", 0, "plan.patch_size is (0, 32)"),
    ("plan/patch_size/0", 10**9, "plan.patch_size is (1000000000, 32)"),
    ("plan/patch_size", [30000, 30000], "plan.patch_size is (30000, 30000); expected at most"),
    ("plan/batch_size", 0, "plan.batch_size is 0; expected 1 to 16384"),
    ("plan/batch_size", 10**9, "plan.batch_size is 1000000000"),
    ("plan/topology/convolutions_per_stage", 1_000_000, "plan.topology.convolutions_per_stage is 1000000"),
    ("plan/topology/convolutions_per_stage", 0, "plan.topology.convolutions_per_stage is 0"),
    ("plan/topology/features/1", 0, "plan.topology.features is (8, 0, 32)"),
    ("plan/topology/features/1", 10**7, "plan.topology.features is (8, 10000000, 32)"),
    ("plan/topology/features", [], "plan.topology.features, their number, is 0; expected 1 to 12"),
    ("plan/topology/features", [8] * 5000, "plan.topology.features, their number, is 5000"),
    ("plan/topology/features", [8192] * 3, "a network of 2,000,000,000 weights at most, not 3,"),
    ("plan/topology/strides/1/0", 0, "plan.topology.strides[1] is (0, 2)"),
    ("plan/topology/strides/1/0", 10**6, "plan.topology.strides[1] is (1000000, 2)"),
    ("plan/topology/strides/1", [2], "plan.topology.strides[1] is (2,); expected 2 numbers from 1 to 16"),
    ("plan/topology/strides", [[1, 1]], "plan.topology.strides, their number, is 1; expected 3"),
    ("plan/topology/kernel_sizes/2/1", 99, "plan.topology.kernel_sizes[2] is (3, 99)"),
    ("plan/anchor_sizes", [0.0], "plan.anchor_sizes is (0.0,)"),
    ("plan/anchor_ratios", [-1.0], "plan.anchor_ratios is (-1.0,)"),
    ("plan/anchor_sizes", [4.0] * 100, "plan.anchor_sizes is (4.0, 4.0"),
    ("plan/queries", 10**9, "plan.queries is 1000000000"),
    ("plan/configuration", "3d_fullres", "job.configuration is '2d'; expected that of the plan, 3d_fullres"),
    (f"dataset_plans/{NAME}/transpose", [0, 0, 1], "transpose is (0, 0, 1); expected 0, 1 and 2 in some order"),
    (f"dataset_plans/{NAME}/channel", 3, f"dataset_plans.{NAME}.channel is 3; expected 0 to 0"),
    (f"dataset_plans/{NAME}/channel", -1, f"dataset_plans.{NAME}.channel is -1"),
    (f"dataset_plans/{NAME}/dataset", "x", f"dataset_plans.{NAME}.dataset is 'x'; expected {NAME}"),
    (f"dataset_plans/{NAME}/normalisation/std", -1.0, "normalisation.std is -1.0"),
    (f"dataset_plans/{NAME}/normalisation/lower", 500.0, "normalisation.lower is 500.0; expected at most upper, 300"),
    (f"dataset_plans/{NAME}/normalisation/mean", 1e30, "normalisation.mean is 1e+30"),
    (f"dataset_plans/{NAME}/assumed_spacing_mm", [1.0, 0.0, 1.0], "assumed_spacing_mm is (1.0, 0.0, 1.0)"),
    ("dataset_plans", {}, f"dataset_plans is []; expected the data sets of the job; {NAME}, {SOURCE} is missing"),
    ("classes", {}, "classes is []"),
    (f"classes/{NAME}/channels", [], f"classes.{NAME}.channels, their number, is 0; expected 1 to 1000"),
    (f"classes/{NAME}/channels/0/written", -3, "values of lesion is (-3, 1)"),
    (f"classes/{NAME}/channels/0/written", 10**6, "values of lesion is (1000000, 1); expected 2 numbers from 0 to"),
    ("channel_names", {NAME: []}, f"channel_names is ['{NAME}']"),
    ("job/width", 10**6, "job.width is 1000000; expected 1 to 4096"),
    ("job/width", 0, "job.width is 0"),
    ("job/fold", -1, "job.fold is -1"),
    ("task", "poetry", "task is 'poetry'; expected one of segmentation, classification, detection"),
    ("settings/width", 10**6, "width is 1e+06; it must be at most 4096"),
    ("settings/seed", 2**70, "seed is 1.18059e+21; it must be at most"),
    ("settings/classification/fusion_blocks", 10**6, "classification.fusion_blocks is 1e+06"),
]  # fmt: skip


@pytest.mark.parametrize("task", ["segmentation", "classification", "detection"])
@pytest.mark.parametrize(("place", "value", "words"), NO_SENSE)
def test_a_run_that_makes_no_sense(tmp_path: Path, task: str, place: str, value: object, words: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(changed(run_json(task), place, value)))
    with pytest.raises(PredictionError) as error:
        read_run(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'run.json'}: ")
    assert words in str(error.value)
    assert str(error.value).endswith("Copy the run folder again; or delete it and run the training command again")
    assert len(str(error.value)) < 900


def test_a_sound_plan_has_no_faults(tmp_path: Path) -> None:
    assert list(faults_of_plan(plan())) == []
    (tmp_path / "plan.json").write_text(to_json_text(plan()))
    assert read_plan(tmp_path / "plan.json") == plan()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: changed(content, "configurations/1/spacing_mm/2", 0), "configurations[1].spacing_mm is"),
        (lambda content: changed(content, "datasets/1/transpose", [2, 2, 2]), "datasets[1].transpose is (2, 2, 2)"),
        (lambda content: changed(content, "datasets/1/dataset", NAME), "expected each data set once"),
        (lambda content: changed(content, "configurations/0/datasets", ["x"]), "configurations[0].datasets is ['x']"),
        (lambda content: changed(content, "configurations", []), "configurations is []; expected one or more"),
        (lambda content: changed(content, "memory_gb", -1), "memory_gb is -1.0"),
        (lambda content: changed(content, "tsak", "x"), "unknown field `tsak`"),
        (lambda content: [content], "Expected `object`, got `array`"),
    ],
)
def test_a_plan_that_makes_no_sense(tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(change(json.loads(to_json_text(plan())))))
    with pytest.raises(PlanError, match="delete it and run mdkd_plan_and_preprocess") as error:
        read_plan(path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 10**9), ("epochs", 10**12), ("learning_rate", float("inf")), ("alpha", float("nan")), ("seed", 2**64),
     ("batch_size", 10**8), ("attention_keys", 10**6)],
)  # fmt: skip
def test_settings_have_limits(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} is .*; it must be at most"):
        load_settings(None, {name: value})
