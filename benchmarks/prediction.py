"""Prediction against nnU-Net v2: the same network, weights, patches and file on both sides, a volume that is half air.

    python benchmarks/prediction.py --nnunet-python /path/to/venv/bin/python [--quick] [--memory]

Each side reads a NIfTI file and writes a NIfTI mask in a process of its own, with one thread a library and mirroring
off, in turns. nnU-Net runs as by default, with helper processes (one of each kind), and in one process
(``predict_from_files_sequential``). "After imports" leaves out what Python's start and imports cost the first process.
``--memory`` measures the peak for a CT volume of 512 x 512 x 600 voxels with a narrow network instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

SHAPE, SPACING_MM = (90, 160, 160), (2.0, 1.0, 1.0)  # z, y, x
LARGE, LARGE_SPACING_MM = (600, 512, 512), (1.0, 0.8, 0.8)
BODY = (0.71, 0.90)  # diameters y, x of the body in volumes: pi / 4 of their product is one half
AIR_HU, TISSUE_HU, NOISE_HU = -1000.0, 40.0, 20.0
CLIP = {"lower": -160.0, "upper": 240.0, "mean": 60.0, "std": 45.0}
IMAGE, MASK = "case_0000.nii.gz", "case.nii.gz"
WAYS = ("default", "one process", "ours")
PACKAGES = ("nnunetv2", "mdkd_auto", "torch", "numpy")


class Setting(NamedTuple):
    """A network and how it is used."""

    name: str
    patch: tuple[int, ...]
    width: int  # features of the first stage
    stages: int
    spacing_mm: tuple[float, ...]  # of the plan
    classes: int = 1
    shape: tuple[int, int, int] = SHAPE
    image_spacing_mm: tuple[float, float, float] = SPACING_MM


SETTINGS = (
    Setting("3-D, 32 features", (32, 64, 64), 32, 5, SPACING_MM),
    Setting("3-D, 8 features", (32, 64, 64), 8, 5, SPACING_MM),
    Setting("3-D, 8 features, resampled", (32, 64, 64), 8, 5, (2.5, 1.25, 1.25)),
    Setting("2-D, 32 features", (96, 96), 32, 5, SPACING_MM[1:]),
    Setting("2-D, 8 features", (96, 96), 8, 5, SPACING_MM[1:]),
    Setting("2-D, 32 features, a patch is a slice", (160, 160), 32, 6, SPACING_MM[1:]),
    Setting("2-D, 8 features, a patch is a slice", (160, 160), 8, 6, SPACING_MM[1:]),
)
QUICK = SETTINGS[1], SETTINGS[4]
MEMORY = tuple(
    Setting(
        f"{name}, {classes} {'class' if classes == 1 else 'classes'}",
        (128, 128, 128),
        4,
        6,
        spacing,
        classes,
        LARGE,
        LARGE_SPACING_MM,
    )
    for name, spacing in (("same spacing", LARGE_SPACING_MM), ("plan of 1.5 mm", (1.5, 1.5, 1.5)))
    for classes in (1, 5)
)


# --- what runs in a process of its own ------------------------------------------------------------------------------


def our_network(spec: dict[str, Any]) -> Any:
    """The network with random weights, always the same."""
    import torch

    from mdkd_auto.networks.model import Model
    from mdkd_auto.networks.unet import UNetEncoder, UNetHead

    axes = len(spec["patch"])
    torch.manual_seed(0)
    model = Model(UNetEncoder(our_topology(spec), 1, axes), UNetHead(our_topology(spec), axes, spec["classes"]))
    torch.nn.init.normal_(model.head.body.seg_layers[0].weight)
    torch.nn.init.constant_(model.head.body.seg_layers[0].bias, -0.5)
    return model


def our_topology(spec: dict[str, Any]) -> Any:
    """Of the plan that both sides have."""
    from mdkd_auto.core.records import Topology

    return Topology(
        features=tuple(spec["features"]),
        kernel_sizes=((3,) * len(spec["patch"]),) * len(spec["features"]),
        strides=tuple(map(tuple, spec["strides"])),
    )


def weights(spec: dict[str, Any]) -> None:
    """Write the network's weights under nnU-Net's names."""
    names = {"encoder.body.": "encoder.", "head.body.": "decoder."}
    state = {
        theirs + name.removeprefix(own): value.numpy()
        for own, theirs in names.items()
        for name, value in our_network(spec).state_dict().items()
        if name.startswith(own)
    }
    np.savez(spec["weights"], **state)


def ours(spec: dict[str, Any]) -> None:
    """Predict with mdkd_auto."""
    import torch

    from mdkd_auto.core.records import Case, ConfigurationPlan, DatasetPlan, Normalisation
    from mdkd_auto.tasks.segmentation.training import predict_file, predictor_of
    from mdkd_auto.tasks.shared.classes import ClassChannel, Classes
    from mdkd_auto.tasks.shared.prediction import PredictionOptions

    imported(spec)
    axes, model = len(spec["patch"]), our_network(spec)
    normalisation = Normalisation(scheme="ct", **CLIP)
    plan = DatasetPlan(
        dataset="Dataset001_CT", channel=0, channel_name="CT", transpose=(0, 1, 2), normalisation=normalisation
    )
    configuration = ConfigurationPlan(
        configuration="2d" if axes == 2 else "3d_fullres",
        datasets=("Dataset001_CT",),
        batch_size=2,
        reasons=(),
        spacing_mm=tuple(spec["spacing_mm"]),
        patch_size=tuple(spec["patch"]),
        topology=our_topology(spec),
    )
    values = range(1, spec["classes"] + 1)
    channels = tuple(ClassChannel(name=str(value), values=(value,), written=value) for value in values)
    classes = Classes(channels=channels, regions=False, ignore=None)
    predictor = predictor_of(model, plan, configuration, classes, PredictionOptions(torch.device("cpu")))
    image = Path(spec["image"])
    case = Case(case_id=image.name.removesuffix("_0000.nii.gz"), images=(str(image),), patient_id="1")
    predict_file(predictor, case, Path(spec["masks"]))


def theirs(spec: dict[str, Any]) -> None:
    """Predict with nnU-Net; runs in its environment."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    imported(spec)
    manager = PlansManager(nnunet_plans(spec))
    configuration = manager.get_configuration("ours")
    labels = {"background": 0, **{str(value): value for value in range(1, spec["classes"] + 1)}}
    dataset = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 1, "labels": labels}
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        len(labels),
        deep_supervision=False,
    )
    last = f"decoder.seg_layers.{len(spec['features']) - 2}."
    with np.load(spec["weights"]) as weights:
        state = {name.replace("decoder.seg_layers.0.", last): torch.from_numpy(weights[name]) for name in weights}
    for name in (last + "weight", last + "bias"):  # background has logit 0: a softmax then decides as sigmoids do
        state[name] = torch.cat([torch.zeros_like(state[name][:1]), state[name]])
    network.load_state_dict(state, strict=False)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.manual_initialization(
        network, manager, configuration, [network.state_dict()], dataset, "nnUNetTrainer", None
    )
    masks = Path(spec["masks"])
    masks.mkdir(exist_ok=True)
    files, target = [[spec["image"]]], [str(masks / Path(spec["image"]).name.removesuffix("_0000.nii.gz"))]
    if spec["way"] == "default":
        predictor.predict_from_files(files, target, num_processes_preprocessing=1, num_processes_segmentation_export=1)
    else:
        predictor.predict_from_files_sequential(files, target)


def nnunet_plans(spec: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's plans for the network, in its defaults elsewhere."""
    axes, stages = len(spec["patch"]), len(spec["features"])
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": spec["features"],
            "strides": spec["strides"],
            "kernel_sizes": [[3] * axes] * stages,
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {
        f"resampling_fn_{what}{ending}": value
        for what, order in (("data", 3), ("seg", 1), ("probabilities", 1))
        for ending, value in (
            ("", "resample_data_or_seg_to_shape"),
            ("_kwargs", {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}),
        )
    }
    configuration = {
        "data_identifier": "ours",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "batch_dice": False,
        "patch_size": spec["patch"],
        "median_image_size_in_voxels": spec["patch"],
        "spacing": spec["spacing_mm"],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
        **resampling,
    }
    intensities = {
        "mean": CLIP["mean"],
        "std": CLIP["std"],
        "percentile_00_5": CLIP["lower"],
        "percentile_99_5": CLIP["upper"],
    }
    return {
        "dataset_name": "Dataset001_CT",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "configurations": {"ours": configuration},
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def imported(spec: dict[str, Any]) -> None:
    """Note the CPU seconds so far: Python's start and the imports."""
    Path(spec["imports"]).write_text(str(sum(os.times()[:4])))


# --- what starts them and compares ----------------------------------------------------------------------------------


def write_volume(path: Path, shape: Sequence[int], spacing_mm: Sequence[float], air: bool = True) -> None:
    """A CT-like volume: an elliptic body, half of the volume, in ``air``, noise everywhere."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[1:]), indexing="ij")
    body = ((y / BODY[0]) ** 2 + (x / BODY[1]) ** 2 < 1) | (not air)
    voxels = np.empty(shape[::-1], dtype=np.int16, order="F")
    for z in range(shape[0]):
        organs = 40 * np.sin(9 * x + z / 7) * np.cos(7 * y - z / 11)
        plane = np.where(body, TISSUE_HU + organs, AIR_HU) + NOISE_HU * rng.standard_normal(body.shape)
        voxels[:, :, z] = np.rint(plane).T
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing_mm[::-1], 1.0])), path)


def specification(setting: Setting, folder: Path, way: str) -> Path:
    """Everything a child has to know, as a JSON file."""
    axes = len(setting.patch)
    most = 320 if axes == 3 else 512
    spec = {
        "way": way,
        "patch": setting.patch,
        "spacing_mm": setting.spacing_mm,
        "classes": setting.classes,
        "features": [min(setting.width * 2**stage, most) for stage in range(setting.stages)],
        "strides": [[1] * axes, *([[2] * axes] * (setting.stages - 1))],
        "image": str(folder / IMAGE),
        "masks": str(folder / way.replace(" ", "_")),
        "weights": str(folder / f"{SETTINGS.index(setting) if setting in SETTINGS else setting.classes}.npz"),
        "imports": str(folder / "imports.txt"),
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


class Run(NamedTuple):
    """What one prediction cost."""

    cpu_s: float
    after_imports_s: float
    peak_mib: float


def run_once(setting: Setting, folder: Path, way: str, nnunet_python: str | None) -> Run:
    """Predict once in a new process."""
    from measuring import run

    spec = specification(setting, folder, way)
    command = [sys.executable if way == "ours" else str(nnunet_python), __file__, "--child", str(spec)]
    cost = run(command, {}, folder / f"{way}.log")
    return Run(cost.cpu_s, cost.cpu_s - float((folder / "imports.txt").read_text()), cost.peak_mib)


def write_weights(setting: Setting, folder: Path) -> None:
    """The weights that nnU-Net loads: a process of our environment makes them."""
    spec = specification(setting, folder, "weights")
    subprocess.run([sys.executable, __file__, "--child", str(spec)], check=True)


def agreement(setting: Setting, folder: Path, nnunet_python: str) -> float:
    """Dice of both sides' masks of a small volume without air, where their windows are the same."""
    import nibabel as nib

    folder = folder / "without_air"
    folder.mkdir(exist_ok=True)
    write_volume(folder / IMAGE, (40, 176, 176), SPACING_MM, air=False)
    write_weights(setting, folder)
    for way in ("ours", "one process"):
        run_once(setting, folder, way, nnunet_python)
    first, second = (np.asarray(nib.load(folder / way / MASK).dataobj) > 0 for way in ("ours", "one_process"))
    return float(2 * np.sum(first & second) / (np.sum(first) + np.sum(second)))


def compare(settings: Sequence[Setting], rounds: int, nnunet_python: str, folder: Path) -> str:
    """Run all settings, in turns, and tabulate the medians."""
    from measuring import table

    write_volume(folder / IMAGE, SHAPE, SPACING_MM)
    rows = []
    for setting in settings:
        write_weights(setting, folder)
        runs: dict[str, list[Run]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                runs[way].append(run_once(setting, folder, way, nnunet_python))
                print(f"{setting.name}, round {number + 1}, {way}: {runs[way][-1]}", file=sys.stderr, flush=True)
        middle = {way: Run(*(median(values) for values in zip(*runs[way], strict=True))) for way in WAYS}
        default, single, own = (middle[way] for way in WAYS)
        rows.append(
            [
                setting.name,
                f"{default.cpu_s:.1f}",
                f"{single.cpu_s:.1f}",
                f"{own.cpu_s:.1f}",
                f"{own.cpu_s / default.cpu_s:.2f}",
                f"{own.cpu_s / single.cpu_s:.2f}",
                f"{single.after_imports_s:.1f}",
                f"{own.after_imports_s:.1f}",
                f"{own.after_imports_s / single.after_imports_s:.2f}",
                f"{default.peak_mib:.0f}",
                f"{single.peak_mib:.0f}",
                f"{own.peak_mib:.0f}",
                f"{agreement(setting, folder, nnunet_python):.4f}",
            ]
        )
    head = (
        "network",
        "nnU-Net, CPU s",
        "nnU-Net in one process",
        "mdkd_auto",
        "ratio",
        "ratio to one process",
        "after imports: nnU-Net in one process",
        "mdkd_auto",
        "ratio",
        "peak MiB: nnU-Net",
        "nnU-Net in one process",
        "mdkd_auto",
        "Dice of the masks without air",
    )
    return table(head, rows)


def memory(folder: Path, nnunet_python: str | None, planes: int) -> str:
    """Peak memory for a large volume, ours and, where asked for, nnU-Net's in one process."""
    from measuring import table

    shape = (planes, *LARGE[1:])
    write_volume(folder / IMAGE, shape, LARGE_SPACING_MM)
    rows = []
    for setting in MEMORY:
        found = [run_once(setting, folder, "ours", None)]
        if nnunet_python:
            write_weights(setting, folder)
            found.append(run_once(setting, folder, "one process", nnunet_python))
        rows.append([setting.name, *(f"{run.peak_mib:.0f} MiB, {run.cpu_s:.0f} CPU s" for run in found)])
        print(rows[-1], file=sys.stderr, flush=True)
    return table((f"{shape[2]} x {shape[1]} x {shape[0]} voxels", "mdkd_auto", "nnU-Net")[: len(rows[0])], rows)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", help="the Python of an environment with nnunetv2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two settings, one round; --memory: 100 planes")
    parser.add_argument("--memory", action="store_true", help="peak memory of a large volume instead")
    parser.add_argument("--planes", type=int, default=LARGE[0], help="of the large volume")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        spec = json.loads(Path(given.child).read_text())
        {"ours": ours, "weights": weights}.get(spec["way"], theirs)(spec)
        return
    if not given.memory and not given.nnunet_python:
        parser.error("--nnunet-python is needed to compare")
    from measuring import machine, versions

    with tempfile.TemporaryDirectory() as folder:
        if given.memory:
            result = memory(Path(folder), given.nnunet_python, 100 if given.quick else given.planes)
        else:
            rounds = 1 if given.quick else given.rounds
            result = compare(QUICK if given.quick else SETTINGS, rounds, given.nnunet_python, Path(folder))
    pythons = filter(None, (sys.executable, given.nnunet_python))
    print(machine(), *(versions(python, PACKAGES) for python in pythons), "", result, sep="\n")


if __name__ == "__main__":
    main()
