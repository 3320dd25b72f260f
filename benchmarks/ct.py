"""The experiment of docs/results.md on real CT: lung tumour (011), liver (012), infection (013), each the target.

Half of the patients are tested on. Budget `small` is for two CPU cores (128 x 128, narrow networks, 300 updates each);
`paper` has the paper's settings at 256 x 256 and is for a GPU. Parts: `main` (multi-head, data-set-specific, joint
teacher, student), `controls`, `labels` (10 %, 25 % and all of the training patients), `reliability`, `small-student`.
--dry-run says how long it takes on this machine. Start it once for each core or GPU (--device cuda:1): the processes
share the jobs. Stop it whenever you like, the same command goes on.
"""

import argparse
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from mdkd_auto import pipeline
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings, replace
from mdkd_auto.core.workers import default_workers
from mdkd_auto.experiments.ablations import ABLATIONS
from mdkd_auto.planners.plan_request import PlanRequest

DATASETS = ("Dataset011_LungTumour", "Dataset012_Liver", "Dataset013_CovidCT")
TEST_FRACTION = 0.5  # of the patients: gains are small, and the test needs patients
BUDGETS: dict[str, dict[str, Any]] = {
    "small": {
        "epochs": 10,
        "iterations_per_epoch": 30,
        "width": 8,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "precision": "bf16",
    },
    "paper": {"width": 64, "batch_size": 16},  # the rest is the default: 300 epochs at most, Adam 1e-4
}
SPACING_MM = {"small": 3.125, "paper": 1.5625}
SIDE = {"small": 128, "paper": 256}  # voxels of a patch: slices are 400 mm wide
SMALL_STUDENT = 4  # a student of this part of the width


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="*", default=["main"], help=f"main, small-student, {', '.join(ABLATIONS)}")
    made.add_argument("--budget", choices=BUDGETS, default="small")
    made.add_argument("--raw", type=Path, default=os.environ.get("MDKD_REAL_DATA"), help="default $MDKD_REAL_DATA")
    made.add_argument("--root", type=Path, default=Path("mdkd_ct"), help="default ./mdkd_ct")
    made.add_argument("--target", action="append", default=[], help="of an ablation; may be repeated (default all)")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--first-seed", type=int, default=0)
    made.add_argument("--updates", type=int, help="of each training, instead of the budget's")
    made.add_argument("--device", default="auto")
    made.add_argument("--dry-run", action="store_true")
    arguments = made.parse_args()
    if arguments.raw is None:
        made.error("say with --raw or MDKD_REAL_DATA where the raw data sets are")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root = Root(arguments.root.absolute() / arguments.budget)
    for name in DATASETS:
        if not (root.raw / name).exists():
            shutil.copytree(Path(arguments.raw) / name, root.raw / name)
    spacing, side = SPACING_MM[arguments.budget], SIDE[arguments.budget]
    pipeline.plan_and_preprocess(
        root,
        "CT",
        PlanRequest(spacing_mm=(spacing,) * 3, patch_size=(side,) * 3, test_fraction=TEST_FRACTION),
        workers=default_workers(),
    )
    settings = Settings(device=arguments.device, seed=arguments.first_seed, **BUDGETS[arguments.budget])
    if arguments.updates:
        epochs = -(-arguments.updates // settings.iterations_per_epoch)
        settings = replace(settings, epochs=epochs)
    for part in arguments.parts:
        run(part, root, settings, arguments)


def run(part: str, root: Root, settings: Settings, arguments: argparse.Namespace) -> None:
    """One part of the experiment."""
    seeds, dry_run = arguments.seeds, arguments.dry_run
    if part == "small-student":
        settings = replace(settings, student_width=(settings.width or 32) // SMALL_STUDENT)
    if part in ("main", "small-student"):
        pipeline.train_all_permutations(root, settings, "CT", seeds=seeds, dry_run=dry_run)
    else:
        pipeline.ablate(root, settings, part, "CT", tuple(arguments.target), seeds=seeds, dry_run=dry_run)


if __name__ == "__main__":
    main()
