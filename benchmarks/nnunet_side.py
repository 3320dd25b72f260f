"""What has to run inside nnU-Net's environment; the benchmarks call this file with its Python."""

import json
import sys
import time
from pathlib import Path

import numpy as np


def resample(given: str, wanted: str) -> None:
    """Resample images and masks of ``given`` to a spacing as nnU-Net's preprocessing does, and the masks back."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

    ways = {  # the defaults of nnU-Net's plans
        "image": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "mask": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    results = {}
    with np.load(given) as arrays:
        for name in {key.split("/")[0] for key in arrays}:
            before, after = arrays[f"{name}/spacing"], arrays[f"{name}/target"]
            shape = arrays[f"{name}/image"].shape
            new_shape = compute_new_shape(shape, before, after)
            for kind, way in ways.items():
                array = arrays[f"{name}/{kind}"][None]
                moved = resample_data_or_seg_to_shape(array, new_shape, before, after, **way)
                results[f"{name}/{kind}"] = moved
                if kind == "mask":
                    results[f"{name}/back"] = resample_data_or_seg_to_shape(moved, shape, after, before, **way)
    np.savez(wanted, **{key: value[0] for key, value in results.items()})


def batches(preprocessed: str, configuration: str, patch: str, size: str, warm_up: str, count: str) -> None:
    """Print the CPU seconds of each of ``count`` training batches: nnU-Net's loader and transforms, one thread."""
    import torch
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    folder = Path(preprocessed)
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # as its training command adds it
    plans["configurations"][configuration].update(patch_size=json.loads(patch), batch_size=int(size))
    description = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, configuration, 0, description, torch.device("cpu"))
    rotation, in_plane, first_patch, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    transforms = nnUNetTrainer.get_training_transforms(  # no deep supervision: it would shrink labels, not augment
        trainer.configuration_manager.patch_size,
        rotation,
        None,
        mirror_axes,
        in_plane,
        use_mask_for_norm=trainer.configuration_manager.use_mask_for_norm,
        foreground_labels=trainer.label_manager.foreground_labels,
    )
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder / f"nnUNetPlans_{configuration}")),
        trainer.configuration_manager.batch_size,
        first_patch,
        trainer.configuration_manager.patch_size,
        trainer.label_manager,
        oversample_foreground_percent=trainer.oversample_foreground_percent,
        transforms=transforms,
    )
    np.random.seed(0)  # noqa: NPY002 (nnU-Net draws from it)
    torch.manual_seed(0)
    for _ in range(int(warm_up)):
        next(loader)
    seconds = []
    for _ in range(int(count)):
        started = time.process_time()
        next(loader)
        seconds.append(time.process_time() - started)
    print("\n" + json.dumps(seconds))


if __name__ == "__main__":
    {"resample": resample, "batches": batches}[sys.argv[1]](*sys.argv[2:])
