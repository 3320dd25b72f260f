"""mdkd_demo: the whole pipeline on phantoms, from a raw folder to masks and a table, in minutes on a laptop."""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mdkd_auto.cli.common import parser, report_problems, run
from mdkd_auto.core.paths import Root

logger = logging.getLogger(__name__)

DEMO_FOLDER = "mdkd_demo"
BUDGET = {
    "epochs": 5,
    "iterations_per_epoch": 25,
    "validation_batches": 4,
    "width": 8,
    "learning_rate": 5e-3,
    "batch_size": 4,
}


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "Generate three small CT-like data sets with different appearance, plan, preprocess, train every permutation,\n"
        "predict new images and print the table. Takes about three minutes on two CPU cores. Rerun to resume.",
        default_root=f"./{DEMO_FOLDER}",
    )
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    made.add_argument(
        "--epochs", type=int, default=BUDGET["epochs"], help=f"number of epochs (default {BUDGET['epochs']})"
    )
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    root = Root((arguments.root or Path(DEMO_FOLDER)).absolute())
    logger.info("root: %s", root.folder)
    from mdkd_auto import pipeline
    from mdkd_auto.core.settings import load_settings
    from mdkd_auto.demo.phantoms import LOOKS, write_datasets, write_new_images
    from mdkd_auto.planners.plan_request import PlanRequest

    started = time.monotonic()
    settings = load_settings(None, {**BUDGET, "device": arguments.device, "epochs": arguments.epochs})
    if not all((root.raw / look.name / "dataset.json").is_file() for look in LOOKS):
        write_datasets(root.raw)
    planned = pipeline.plan_and_preprocess(root, "CT", PlanRequest(configurations=("2d",)))
    tables = pipeline.train_all_permutations(root, settings, "CT", configuration="2d")
    problems = list(planned.problems)
    for row in tables[0].rows:
        look = next(look for look in LOOKS if look.name == row.target)
        images, masks = root.folder / "new_images" / row.target, root.folder / "new_masks" / row.target
        write_new_images(images, look)
        outcome = pipeline.predict(images, masks, root.results / row.folders["student"][0], device=arguments.device)
        problems += outcome.problems
    seconds = time.monotonic() - started
    logger.info("done in %.0f s. Raw images: %s; runs and weights: %s", seconds, root.raw, root.results)
    logger.info("masks of new images: %s; table and picture: %s", root.folder / "new_masks", tables[0].path.parent)
    logger.info("Budgets of this size show that the chain works; they say nothing about which column is best.")
    return report_problems(problems)
