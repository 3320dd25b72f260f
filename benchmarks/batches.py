"""Training batches against nnU-Net v2: patches read from each one's own preprocessed cases, then augmented.

    python benchmarks/batches.py --nnunet-python /path/to/venv/bin/python [--device cuda]

Both in one process with one thread, the same patch and batch size, nnU-Net's augmentations with its probabilities. With
``--device cuda`` the patches are read on the CPU and augmented on the GPU; nnU-Net augments on the CPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from against_nnunet import PACKAGES, nnunet_variables, prepare, work_folders
from measuring import THREADS, machine, table, versions
from scene import DATASET

from mdkd_auto.batches.augmentation import affine_maps, apply, draw
from mdkd_auto.batches.sampling import PatchSampler
from mdkd_auto.core.files import read_record
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import ConfigurationPlan, Plan

COUNTS = {"2d": 60, "3d_fullres": 40}
WARM_UP = 8
LESION_FRACTION = 0.33  # nnU-Net's
LEAST_RATIO = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", help="Python with nnunetv2 (default: only this package)")
    parser.add_argument("--device", default="cpu", help="where this package augments: cpu (default), cuda")
    parser.add_argument("--folder", type=Path, help="where to work, kept and used again (default: temporary)")
    arguments = parser.parse_args(argv)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="batches_"))
    torch.set_num_threads(1)
    try:
        print(f"{machine()}\n- here: {versions(sys.executable, PACKAGES)}")
        if arguments.nnunet_python:
            print(f"- nnU-Net: {versions(arguments.nnunet_python, PACKAGES)}")
        print("\n" + report(arguments.nnunet_python, folder, torch.device(arguments.device)))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    return 0


def report(nnunet_python: str | None, folder: Path, device: torch.device) -> str:
    theirs, ours = work_folders(folder, "batches")
    if not ours.is_dir():
        prepare(Path(nnunet_python) if nnunet_python else None, folder, "batches")
    root = Root(ours)
    (plan_file,) = root.preprocessed.glob("*/plan.json")
    rows = []
    for part in read_record(plan_file, Plan).configurations:
        spent = here(root, part, device)
        row = [part.configuration, "x".join(map(str, part.patch_size)), str(part.batch_size), _per_second(spent)]
        if nnunet_python:
            old = nnunet(nnunet_python, folder, theirs, part)
            ratio = mean(old) / mean(spent)
            verdict = "" if ratio >= LEAST_RATIO else f" (wanted {LEAST_RATIO:g} x)"
            row += [_per_second(old), f"{ratio:.1f} x{verdict}"]
        rows.append(row)
    head = ["configuration", "patch", "batch", f"batches a CPU s here ({device})", "nnU-Net", "ratio"]
    return table(head[: len(rows[0])], rows)


def here(root: Root, part: ConfigurationPlan, device: torch.device) -> list[float]:
    """CPU seconds of each batch: drawn, read, augmented."""
    folder = root.cases(DATASET, part.configuration)
    case_ids = tuple(path.stem for path in folder.glob("*.json"))
    sampler = PatchSampler(folder, case_ids, part.patch_size, LESION_FRACTION, seed=0)
    seconds = []
    for iteration in range(WARM_UP + COUNTS[part.configuration]):
        started = time.process_time()
        drawn = draw(np.random.default_rng([0, iteration]), part.batch_size, len(part.patch_size))
        batch = sampler.batch(iteration, part.batch_size, affine_maps(drawn, part.patch_size, part.spacing_mm))
        batch = batch.to(device)
        apply(batch.images, batch.labels, drawn, part.spacing_mm, batch.sources)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.process_time() - started)
    return seconds[WARM_UP:]


def nnunet(python: str, folder: Path, theirs: Path, part: ConfigurationPlan) -> list[float]:
    """The same of nnU-Net, in its own environment."""
    script, preprocessed = Path(__file__).with_name("nnunet_side.py"), theirs / "preprocessed" / DATASET
    numbers = [json.dumps(part.patch_size), str(part.batch_size), str(WARM_UP), str(COUNTS[part.configuration])]
    command = [python, str(script), "batches", str(preprocessed), part.configuration, *numbers]
    environment = {**os.environ, **THREADS, **nnunet_variables(folder, theirs)}
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds: list[float] = json.loads(printed.strip().splitlines()[-1])
    return seconds


def _per_second(spent: Sequence[float]) -> str:
    """With the standard error: what is drawn differs from batch to batch."""
    error = stdev(spent) / len(spent) ** 0.5 / mean(spent)
    return f"{1 / mean(spent):.2f} ± {error / mean(spent):.2f}"


if __name__ == "__main__":
    sys.exit(main())
