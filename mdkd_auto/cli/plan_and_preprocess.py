"""mdkd_plan_and_preprocess: raw folder -> fingerprints, plans, splits, preprocessed cases."""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from mdkd_auto.cli.common import parser, report_problems, root_from, run
from mdkd_auto.core.errors import SettingsError

if TYPE_CHECKING:
    from mdkd_auto.planners.plan_request import PlanRequest

Number = TypeVar("Number", int, float)

LONGEST_PATCH = 4096  # voxels


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "Check, fingerprint, plan and preprocess the data sets of the raw folder. Reruns process only changes.\n"
        "All errors in the data are reported in one pass, before anything is planned."
    )
    made.add_argument("-g", "--group", help="restrict to this group: CT, MRI, CXR (default: every group)")
    made.add_argument(
        "-c",
        "--configuration",
        action="append",
        choices=("2d", "3d_fullres"),
        default=[],
        help="restrict to this configuration; repeatable (default: all in the plan)",
    )
    made.add_argument("--memory-gb", type=float, default=8.0, help="GPU memory to plan for (default 8)")
    made.add_argument(
        "--spacing-mm",
        type=float,
        nargs="+",
        metavar="MM",
        help="target spacing, overriding the plan: one number, or z y x",
    )
    made.add_argument(
        "--patch-size",
        type=int,
        nargs="+",
        metavar="VOXELS",
        help="patch size of segmentation groups: one number, or z y x",
    )
    made.add_argument(
        "--input-size", type=int, metavar="VOXELS", help="side of the input of classification and detection groups"
    )
    made.add_argument(
        "--test-fraction",
        type=float,
        help="held-out fraction of the patients, if neither splits_final.json nor cases.csv defines a test set; "
        "existing assignments are kept (default 0.2)",
    )
    made.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="extracts the patient from case names with a group (?P<patient>...); stored with the splits. "
        "A patient_id in cases.csv takes precedence (default: group by sub-<label>)",
    )
    made.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="DATASET=CHANNEL",
        help="input channel of a data set, by name or number: 001=T1c; repeatable",
    )
    only = made.add_mutually_exclusive_group()
    only.add_argument("--verify-only", action="store_true", help="check and fingerprint every file, then exit")
    only.add_argument("--plan-only", action="store_true", help="check and plan, without preprocessing")
    made.add_argument("--exclude-broken", action="store_true", help="skip cases with errors instead of stopping")
    made.add_argument(
        "--allow-duplicates", action="store_true", help="accept near-duplicate images in both training and test set"
    )
    made.add_argument(
        "--replan",
        action="store_true",
        help="ignore the existing plan instead of keeping what still fits; reassign the patients of a data set "
        "whose splits divide a patient",
    )
    made.add_argument(
        "-j",
        "--workers",
        type=int,
        help="number of processes (default: number of cores, at most 8; fewer if memory is short)",
    )
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    root = root_from(arguments)
    from mdkd_auto import preparation  # not the pipeline: this command has no use for torch
    from mdkd_auto.core.workers import default_workers

    workers = arguments.workers or default_workers()
    if arguments.verify_only:
        preparation.verify(root, arguments.group, _request(arguments, channels={}), workers=workers)
        return 0
    names = preparation.dataset_names(root, arguments.group) if arguments.channel else []
    request = _request(arguments, _channels(arguments.channel, names))
    outcome = preparation.plan_and_preprocess(
        root, arguments.group, request, preprocess=not arguments.plan_only, workers=workers
    )
    return report_problems(outcome.problems)


def _request(arguments: argparse.Namespace, channels: dict[str, str]) -> "PlanRequest":
    from mdkd_auto.planners.plan_request import PlanRequest

    return PlanRequest(
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
    )


def _channels(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Channel per data set from texts such as "001=T1c". Raises SettingsError."""
    from mdkd_auto.datasets.raw_folder import find_name

    channels = {}
    for text in given:
        dataset, equals, channel = text.partition("=")
        if not equals or not channel:
            raise SettingsError(f"--channel {text!r}: expected DATASET=CHANNEL, such as 001=T1c")
        channels[find_name(dataset, names)] = channel
    return channels


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
