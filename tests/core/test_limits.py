"""Plans and run folders that make no sense are refused by field before anything is built of them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mdkd_auto.core.errors import PlanError, PredictionError, SettingsError, TrainingError
from mdkd_auto.core.files import to_json_text
from mdkd_auto.core.limits import faults_of_plan, read_plan
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Normalisation, Plan, Topology
from mdkd_auto.core.settings import Settings, load_settings
from mdkd_auto.execution import run_limits
from mdkd_auto.execution.run_folder import RunRecord, build_model, load_model, make_task, read_run

NAME, SOURCE = "Dataset011_Target", "Dataset012_Source"


RANGES = {
    "spacing_mm": [[2.0, 1.0, 1.0], [4.0, 1.5, 1.5]],
    "shape": [[8, 40, 40], [12, 64, 64]],
    "percentile_00_5": [-1000.0, -900.0],
    "percentile_99_5": [300.0, 500.0],
}
TASKS = ("segmentation", "classification", "detection")
REMEDY = "Copy the run folder again; or delete it and run the training command again"


def configuration(axes: int = 2) -> ConfigurationPlan:
    topology = Topology(
        features=(8, 16, 32), kernel_sizes=((3,) * axes,) * 3, strides=((1,) * axes, (2,) * axes, (2,) * axes)
    )
    return ConfigurationPlan(
        configuration="2d" if axes == 2 else "3d_fullres",
        datasets=(NAME, SOURCE),
        spacing_mm=(1.0,) * axes,
        patch_size=(32,) * axes,
        batch_size=4,
        topology=topology,
        reasons=(),
    )


def dataset_plan(name: str = NAME) -> DatasetPlan:
    scale = Normalisation(scheme="ct", lower=-100, upper=300, mean=20, std=50)
    return DatasetPlan(dataset=name, channel=0, channel_name="CT", transpose=(0, 1, 2), normalisation=scale)


def plan() -> Plan:
    return Plan(
        group="CT_segmentation",
        modality="CT",
        task="segmentation",
        memory_gb=8.0,
        reasons=(),
        datasets=(dataset_plan(), dataset_plan(SOURCE)),
        configurations=(configuration(), configuration(3)),
    )


def run_json(task: str) -> dict[str, Any]:
    architecture = {"segmentation": "unet", "classification": "medvit_small", "detection": "faster_rcnn_small"}[task]
    job = {
        "stage": "student",
        "target": NAME,
        "sources": [SOURCE],
        "group": "CT",
        "configuration": "2d",
        "fold": 0,
        "architecture": architecture,
        "width": None,
        "folder": "a/b/fold_0",
        "reads": [],
        "identity": {},
    }
    channels = [{"name": name, "values": [value], "written": value} for name, value in (("lesion", 1), ("rim", 2))]
    classes = {"channels": channels, "regions": False, "ignore": None}
    return json.loads(
        to_json_text(
            {
                "version": "1.0",
                "job": job,
                "plan": configuration(),
                "settings": Settings(),
                "task": task,
                "dataset_plans": {name: dataset_plan(name) for name in (NAME, SOURCE)},
                "classes": dict.fromkeys((NAME, SOURCE), classes),
                "channel_names": {name: ["CT"] for name in (NAME, SOURCE)},
                "file_endings": dict.fromkeys((NAME, SOURCE), ".nii.gz"),
                "ranges": {NAME: RANGES},
            }
        )
    )


def changed(content: Any, place: str, value: object) -> Any:
    """``content`` with the value at a place such as ``plan/patch_size/0``."""
    first, _, rest = place.partition("/")
    key: Any = int(first) if isinstance(content, list) else first
    new = changed(content[key], rest, value) if rest else value
    if isinstance(content, list):
        return [new if index == key else one for index, one in enumerate(content)]
    return {**content, key: new}


@pytest.mark.parametrize("task", TASKS)
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
    (f"classes/{NAME}/channels/1/written", 1, f"classes.{NAME}.channels, written of each, is [1, 1]; expected each"),
    (f"classes/{NAME}/channels/1/name", "lesion", "name of each, is ['lesion', 'lesion']; expected each once"),
    (f"classes/{NAME}/channels/1/values", [], "values of rim is (); expected one or more"),
    ("channel_names", {NAME: []}, f"channel_names is ['{NAME}']"),
    ("job/width", 10**6, "job.width is 1000000; expected 1 to 4096"),
    ("job/width", 0, "job.width is 0"),
    ("job/fold", -1, "job.fold is -1"),
    ("job/sources", [SOURCE, SOURCE], f"job.sources is ('{SOURCE}', '{SOURCE}'); expected each data set once"),
    ("job/sources", [NAME], "job.sources is"),
    ("job/label_fraction", 7.0, "job.label_fraction is 7.0"),
    ("job/teachers", [["unet", 8]], "job.teachers, their number, is 1; expected 2, one for each data set"),
    (
        "plan/spacing_mm",
        [0.01, 0.01],
        "plan.spacing_mm is (0.01, 0.01); expected 0.0312 to 48 and 0.0312 to 48, within "
        f"32 times the training images of {NAME} (ranges)",
    ),
    ("plan/spacing_mm/0", 0.03, "plan.spacing_mm is (0.03, 1.0); expected 0.0312 to 48"),
    ("plan/spacing_mm/1", 50.0, "plan.spacing_mm is (1.0, 50.0)"),
    ("plan/spacing_mm", [0.04, 0.04], f"training images of {NAME} (ranges) at most 512 times as large, not 625 times"),
    ("plan/patch_size", [4096, 4096], f"at most 512 times the voxels of the largest training image of {NAME}"),
    ("plan/patch_size", [33, 32], "plan.patch_size is (33, 32); expected multiples of (4, 4)"),
    ("plan/patch_size", [4, 4], "plan.patch_size is (4, 4); expected multiples of (4, 4), the product of the"),
    ("plan/topology/strides/0", [2, 2], "plan.topology.strides[0] is (2, 2); expected ones"),
    ("plan/topology/strides/2", [16, 16], "plan.patch_size is (32, 32); expected multiples of (32, 32)"),
    ("ranges", {"x": RANGES}, f"ranges is 'x'; expected data sets of the job: {NAME}, {SOURCE}"),
    (f"ranges/{NAME}/shape/0/0", 0, f"ranges.{NAME}.shape, the minimum, is (0, 40, 40); expected 3 numbers from 1 to"),
    (f"ranges/{NAME}/shape/1/2", -64, f"ranges.{NAME}.shape, the maximum, is (12, 64, -64)"),
    (f"ranges/{NAME}/shape/0/1", 65, f"ranges.{NAME}.shape is ((8, 65, 40), (12, 64, 64)); expected a minimum and"),
    (f"ranges/{NAME}/shape/1/0", 10**9, f"ranges.{NAME}.shape, the maximum, is (1000000000, 64, 64)"),
    (f"ranges/{NAME}/spacing_mm/0/0", -2.0, f"ranges.{NAME}.spacing_mm, the minimum, is (-2.0, 1.0, 1.0)"),
    (f"ranges/{NAME}/spacing_mm/0/0", 5.0, f"ranges.{NAME}.spacing_mm is ((5.0, 1.0, 1.0), (4.0, 1.5, 1.5))"),
    (f"ranges/{NAME}/percentile_00_5", [5.0, -5.0], f"ranges.{NAME}.percentile_00_5 is ((5.0,), (-5.0,))"),
    (f"ranges/{NAME}/percentile_00_5", [-1e35, 0.0], f"ranges.{NAME}.percentile_00_5, the minimum, is (-1e+35,)"),
    (f"ranges/{NAME}/percentile_00_5", [400.0, 450.0], f"ranges.{NAME}.percentile_00_5 is (400.0, 450.0); expected at"),
    (f"ranges/{NAME}/percentile_99_5/1", float("inf"), "inf is no number to work with"),
    (f"ranges/{NAME}/spacing_mm/1/1", float("nan"), "nan is no number to work with"),
    (f"ranges/{NAME}/shape/0", [8, 40], "Expected `array` of length 3"),
    ("task", "poetry", "task is 'poetry'; expected one of segmentation, classification, detection"),
    ("settings/width", 10**6, "width is 1e+06; it must be at most 4096"),
    ("settings/seed", 2**70, "seed is 1.18059e+21; it must be at most"),
    ("settings/classification/fusion_blocks", 10**6, "classification.fusion_blocks is 1e+06"),
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("place", "value", "words"), NO_SENSE)
def test_a_run_that_makes_no_sense(tmp_path: Path, task: str, place: str, value: object, words: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(changed(run_json(task), place, value)))
    with pytest.raises(PredictionError) as error:
        read_run(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'run.json'}: ")
    assert words in str(error.value)
    assert str(error.value).endswith(REMEDY)
    assert len(str(error.value)) < 900


def refused(folder: Path, content: Any) -> str:
    """What is said of a run.json."""
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(PredictionError) as error:
        read_run(folder)
    assert str(error.value).endswith(REMEDY)
    return str(error.value)


def test_masks_are_not_written_with_the_value_of_the_background(tmp_path: Path) -> None:
    place = f"classes/{NAME}/channels/0/written"
    assert "written of lesion is 0; expected 1 or more" in refused(
        tmp_path, changed(run_json("segmentation"), place, 0)
    )
    (tmp_path / "run.json").write_text(json.dumps(changed(run_json("classification"), place, 0)))
    assert read_run(tmp_path).classes[NAME].channels[0].written == 0


def test_whole_images_have_no_spacing_and_fewer_voxels(tmp_path: Path) -> None:
    whole = changed(run_json("classification"), "plan/whole_images", True)
    assert "plan.spacing_mm is (0.01, 1.0); expected 1 along each axis" in refused(
        tmp_path, changed(whole, "plan/spacing_mm/0", 0.01)
    )
    assert "plan.patch_size is (8192, 8192); expected at most 16777216 voxels for whole images" in refused(
        tmp_path, changed(whole, "plan/patch_size", [8192, 8192])
    )


def test_training_images_that_are_transposed_are_compared_along_their_own_axes(tmp_path: Path) -> None:
    """Slices of 3 mm come first; the transposed spacing of in-plane axes is that of z and x."""
    content = changed(run_json("segmentation"), f"dataset_plans/{NAME}/transpose", [1, 0, 2])
    content = changed(content, "plan/spacing_mm", [100.0, 40.0])  # of z at most 32 x 4 mm, of x 32 x 1.5 mm
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read_run(tmp_path).plan.spacing_mm == (100.0, 40.0)
    assert "expected 0.0625 to 128 and 0.0312 to 48" in refused(
        tmp_path, changed(content, "plan/spacing_mm", [40.0, 100.0])
    )


def test_what_a_machine_does_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = SimpleNamespace(total=10**9)
    monkeypatch.setattr(run_limits.psutil, "virtual_memory", lambda: gigabyte)
    sound = run_json("segmentation")
    (tmp_path / "run.json").write_text(json.dumps(sound))
    read_run(tmp_path)
    # 8 x 40 x 40 voxels of 1 mm at 0.05 mm: 5.12 million, of 12 bytes; images of 800 x 800: 2.05 thousand millions
    large = changed(sound, f"ranges/{NAME}/shape", [[8, 800, 800], [12, 900, 900]])
    assert "fits this machine's memory; it takes 24.6 GB" in refused(
        tmp_path, changed(large, "plan/spacing_mm", [0.05, 0.05])
    )
    # 3 maps of 8 features, 4096 x 4096 numbers of 4 bytes
    assert "8 feature maps fit this machine's memory; they take 1.61 GB" in refused(
        tmp_path, changed(large, "plan/patch_size", [4096, 4096])
    )


@pytest.mark.parametrize("architecture", ["unet", "tresunet"])
def test_a_width_that_makes_a_network_of_too_many_weights(tmp_path: Path, architecture: str) -> None:
    content = changed(run_json("segmentation"), "job/architecture", architecture)
    said = refused(tmp_path, changed(content, "job/width", 4096))
    assert "job.width is 4096; expected a network of 2,000,000,000 weights at most, not " in said
    joint = {**content["job"], "stage": "joint_teacher", "teachers": [[architecture, 8], [architecture, 4096]]}
    assert "job.teachers is 4096" in refused(tmp_path, {**content, "job": joint})


def test_a_run_that_is_not_what_its_identity_says(tmp_path: Path) -> None:
    content = run_json("segmentation")
    data = {
        name: {"plan": content["dataset_plans"][name], "classes": content["classes"][name]} for name in (NAME, SOURCE)
    }
    plan = {name: value for name, value in content["plan"].items() if name not in ("datasets", "reasons")}
    identity = {
        "stage": "student",
        "target": NAME,
        "sources": [SOURCE],
        "fold": 0,
        "plan": plan,
        "network": {"architecture": "unet", "width": None},
        "data": data,
    }
    sound = changed(content, "job/identity", identity)
    (tmp_path / "run.json").write_text(json.dumps(sound))
    assert read_run(tmp_path).job.identity == identity
    for place, value, words in (
        ("plan/spacing_mm", [2.0, 2.0], "plan.spacing_mm is [2.0, 2.0]; expected [1.0, 1.0], as job.identity says"),
        ("plan/topology/strides", [[1, 1]] * 3, "plan.topology.strides is [[1, 1], [1, 1], [1, 1]]; expected [[1, 1],"),
        (f"dataset_plans/{NAME}/normalisation/mean", 21, f"{NAME}.normalisation.mean is 21.0; expected 20, as"),
        (f"classes/{NAME}/channels/0/name", "cyst", f"classes.{NAME}.channels is "),
        ("job/fold", 3, "job.fold is 3; expected 0, as job.identity says"),
        ("job/identity/network/width", 16, "job.width is None; expected 16, as job.identity says"),
        ("job/width", 16, "job.width is 16; expected None, as job.identity says"),
        ("plan/whole_images", True, "plan.whole_images is True; expected None, as job.identity says"),
        ("plan/queries", 7, "plan.queries is 7; expected None"),
    ):
        assert words in refused(tmp_path, changed(sound, place, value))


# --- networks and weights -------------------------------------------------------------------------------------------


def weights_of(run: RunRecord) -> dict[str, torch.Tensor]:
    """Those that its networks begin with."""
    return {name: value.clone() for name, value in build_model(run, make_task(run)).state_dict().items()}


def run_with(folder: Path, **changes: object) -> RunRecord:
    """A run with changes at places such as ``plan__topology``."""
    content = run_json("segmentation")
    for place, value in changes.items():
        content = changed(content, place.replace("__", "/"), value)
    (folder / "run.json").write_text(json.dumps(content))
    return read_run(folder)


def test_a_network_that_cannot_be_built_names_the_file(tmp_path: Path) -> None:
    for changes in (
        {"job__architecture": "nothing"},
        {"plan__topology": {"features": [8], "kernel_sizes": [[3, 3]], "strides": [[1, 1]]}},
    ):
        run = run_with(tmp_path, **changes)
        with pytest.raises(PredictionError) as error:
            load_model(tmp_path, run)
        assert str(error.value).startswith(f"{tmp_path / 'run.json'}: its network cannot be built: ")
        assert str(error.value).endswith(REMEDY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "1 tensor differs, the first is more: found (1,) float"),
        (lambda tensors: dict(list(tensors.items())[1:]), "1 tensor differs, the first is "),
        (lambda tensors: {name: value[None] for name, value in tensors.items()}, "tensors differ, the first is "),
        (lambda tensors: {name: value.to(torch.int8) for name, value in tensors.items()}, "int8, expected ("),
        (lambda tensors: b"\xff" * 40, "unreadable weights ("),
        (lambda tensors: save(tensors)[:-100], "unreadable weights ("),
        (lambda tensors: b"", "unreadable weights ("),
        (lambda tensors: None, "the weights file is missing. "),
    ],
)
def test_weights_that_cannot_be_used_name_the_remedy(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], words: str
) -> None:
    run = run_with(tmp_path)
    path = tmp_path / "checkpoint_best.safetensors"
    made = change(weights_of(run))
    if made is not None:
        path.write_bytes(made if isinstance(made, bytes) else save(made))
    with pytest.raises(TrainingError) as error:
        load_model(tmp_path, run)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
    assert str(error.value).endswith(f". {REMEDY}")


def test_sound_weights_are_loaded(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    weights = {name: value + 1 for name, value in weights_of(run).items()}
    (tmp_path / "checkpoint_best.safetensors").write_bytes(save(weights))
    loaded = load_model(tmp_path, run).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


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
    [
        ("width", 10**9),
        ("epochs", 10**12),
        ("learning_rate", float("inf")),
        ("alpha", float("nan")),
        ("seed", 2**64),
        ("batch_size", 10**8),
        ("attention_keys", 10**6),
    ],
)
def test_settings_have_limits(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} is .*; it must be at most"):
        load_settings(None, {name: value})
