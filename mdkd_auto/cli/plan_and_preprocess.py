"""mdkd_plan_and_preprocess: raw folder -> fingerprints, plans, splits, preprocessed cases."""

import argparse
import math
from collections.abc import Sequence
from typing import TypeVar

from mdkd_auto.cli.common import parser, report_problems, root_from, run
from mdkd_auto.core.errors import SettingsError

Number = TypeVar("Number", int, float)

LONGEST_PATCH = 4096  # voxels


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "Check, fingerprint, plan and preprocess the data sets of the raw folder. Run again, it does what is new.\n"
        "Errors in the data are listed all at once and stop it before anything is planned."
    )
    made.add_argument("-g", "--group", help="only this group: CT, MRI, CXR (default: every group)")
    made.add_argument(
        "-c",
        "--configuration",
        action="append",
        choices=("2d", "3d_fullres"),
        default=[],
        help="only this configuration; may be repeated (default: all that the plan has)",
    )
    made.add_argument("--memory-gb", type=float, default=8.0, help="memory of the GPU to plan for (default 8)")
    made.add_argument(
        "--spacing-mm",
        type=float,
        nargs="+",
        metavar="MM",
        help="target spacing instead of the planned one: one number, or z y x",
    )
    made.add_argument(
        "--patch-size",
        type=int,
        nargs="+",
        metavar="VOXELS",
        help="patch of a segmentation group: one number, or z y x",
    )
    made.add_argument(
        "--input-size", type=int, metavar="VOXELS", help="side of the input of a classification or detection group"
    )
    made.add_argument(
        "--test-fraction",
        type=float,
        help="share of the patients to test on, where neither splits_final.json nor cases.csv says; "
        "patients dealt out before stay where they are (default 0.2)",
    )
    made.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="finds the patient in names of cases, in a group (?P<patient>...); stored with the splits. "
        "A patient_id of cases.csv goes before it (default: group by sub-<label>)",
    )
    made.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="DATASET=CHANNEL",
        help="input channel of a data set, by name or number: 001=T1c",
    )
    only = made.add_mutually_exclusive_group()
    only.add_argument("--verify-only", action="store_true", help="check every file, fingerprint, and stop")
    only.add_argument("--plan-only", action="store_true", help="check and plan, without preprocessing")
    made.add_argument("--exclude-broken", action="store_true", help="leave out cases with errors instead of stopping")
    made.add_argument(
        "--allow-duplicates", action="store_true", help="pictures that look the same may be trained and tested on"
    )
    made.add_argument(
        "--replan",
        action="store_true",
        help="forget the earlier plan, do not keep what fits; deal "
        "out again the patients of a data set whose splits tear one apart",
    )
    made.add_argument(
        "-j",
        "--workers",
        type=int,
        help="processes (default: as many as cores, at most 8; fewer where memory is short)",
    )
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    root = root_from(arguments)
    from mdkd_auto import preparation  # not the pipeline: this command has no use for torch
    from mdkd_auto.core.workers import default_workers
    from mdkd_auto.datasets.raw_folder import find_name

    workers = arguments.workers or default_workers()
    if arguments.verify_only:
        preparation.verify(
            root,
            arguments.group,
            test_fraction=arguments.test_fraction,
            exclude_broken=arguments.exclude_broken,
            allow_duplicates=arguments.allow_duplicates,
            patient_pattern=arguments.patient_pattern,
            replan=arguments.replan,
            workers=workers,
        )
        return 0
    channels = {}
    names = preparation.dataset_names(root, arguments.group) if arguments.channel else []
    for text in arguments.channel:
        dataset, equals, channel = text.partition("=")
        if not equals or not channel:
            raise SettingsError(f"--channel {text!r}: expected DATASET=CHANNEL, such as 001=T1c")
        channels[find_name(dataset, names)] = channel
    outcome = preparation.plan_and_preprocess(
        root,
        arguments.group,
        configurations=tuple(arguments.configuration),
        memory_gb=arguments.memory_gb,
        spacing_mm=_spacing(arguments.spacing_mm),
        patch_size=_patch(arguments.patch_size),
        input_size=arguments.input_size,
        test_fraction=arguments.test_fraction,
        channels=channels,
        replan=arguments.replan,
        exclude_broken=arguments.exclude_broken,
        allow_duplicates=arguments.allow_duplicates,
        patient_pattern=arguments.patient_pattern,
        preprocess=not arguments.plan_only,
        workers=workers,
    )
    return report_problems(outcome.problems)


def _spacing(given: list[float] | None) -> tuple[float, float, float] | None:
    """Three numbers from one or three. Raises SettingsError."""
    if given is None:
        return None
    if len(given) not in (1, 3) or not all(0 < value < math.inf for value in given):
        raise _refused("--spacing-mm", given, "one number above 0")
    return _z_y_x(given)


def _patch(given: list[int] | None) -> tuple[int, int, int] | None:
    """Three numbers of voxels from one or three. Raises SettingsError."""
    if given is None:
        return None
    if len(given) not in (1, 3) or not all(1 <= voxels <= LONGEST_PATCH for voxels in given):
        raise _refused("--patch-size", given, f"one number from 1 to {LONGEST_PATCH}")
    return _z_y_x(given)


def _refused(flag: str, given: Sequence[float], expected: str) -> SettingsError:
    shown = " ".join(str(value)[:12] for value in given)
    return SettingsError(f"{flag} {shown}: expected {expected}, or three: z y x; 2-D takes the last two")


def _z_y_x(given: list[Number]) -> tuple[Number, Number, Number]:
    z, y, x = given if len(given) == 3 else given * 3
    return z, y, x
