"""mdkd_predict: images -> masks in the input geometry, classes, or boxes."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from mdkd_auto.cli.common import parser, report_problems, root_from, run
from mdkd_auto.core.errors import SettingsError

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "Predict masks, classes or boxes with a trained student. With -m, only the run folder is needed, not the root."
    )
    made.add_argument("-i", "--images", type=Path, required=True, help="folder of images, or one image")
    made.add_argument(
        "-o",
        "--masks",
        type=Path,
        required=True,
        help="output folder; must differ from the input folder",
    )
    made.add_argument("-t", "--target", help="use the student of this data set (name or number)")
    made.add_argument("-m", "--model", type=Path, help="use this run folder (.../fold_0) of any stage")
    made.add_argument(
        "-c",
        "--configuration",
        choices=("2d", "3d_fullres"),
        help="configuration of the student, if several are trained",
    )
    made.add_argument("--head", help="data set whose head to use (multi-head models)")
    made.add_argument(
        "--step",
        type=float,
        default=0.5,
        help="sliding-window step for masks, as a fraction of the patch (default 0.5)",
    )
    made.add_argument(
        "--mirror", action="store_true", help="average over mirrored images: slower, slightly better; not for boxes"
    )
    made.add_argument(
        "--spacing-from",
        choices=("sform", "qform", "pixdim"),
        help="which NIfTI voxel size to use if the header contradicts itself",
    )
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    made.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"), help="number format (default auto)"
    )
    made.add_argument("--continue", dest="keep_existing", action="store_true", help="keep existing predictions")
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.step <= 1:
        raise SettingsError(f"--step is {arguments.step}; it must be above 0 and at most 1")
    from mdkd_auto import pipeline

    model = arguments.model
    if model is None:
        model = pipeline.find_student(root_from(arguments), arguments.target, arguments.configuration)
    logger.info("model: %s", model)
    outcome = pipeline.predict(
        arguments.images,
        arguments.masks,
        model,
        dataset=arguments.head,
        step=arguments.step,
        mirror=arguments.mirror,
        device=arguments.device,
        precision=arguments.precision,
        keep_existing=arguments.keep_existing,
        spacing_from=arguments.spacing_from,
    )
    kept = f", {outcome.skipped} kept" if outcome.skipped else ""
    logger.info("images done: %d%s -> %s", outcome.done, kept, arguments.masks)
    return report_problems(outcome.problems)
