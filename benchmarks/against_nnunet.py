"""Planning and preprocessing against nnU-Net v2, on the same raw data set: what each stage costs, and how true it is.

    python benchmarks/against_nnunet.py --nnunet-python /path/to/venv/bin/python

Both sides run as a user would run them, one after the other, a new folder each round, with two workers and one thread
a library. CPU seconds decide: they hardly change with what else the machine does. ``fidelity`` compares resampled
images with the phantom they were drawn from.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import fidelity
from measuring import MEMORY, Cost, machine, middle, run, table, versions
from scene import DATASET, write_raw

WORKERS = "2"
NUMBER = DATASET[7:10]
PACKAGES = ("nnunetv2", "mdkd_auto", "torch", "numpy", "scipy", "blosc2")


class Stage(NamedTuple):
    """The same work of both sides: a command each, and the largest ratios that are good enough."""

    name: str
    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    most_cpu: float
    most_memory: float


STAGES = (
    Stage(
        "fingerprint",
        ("nnUNetv2_extract_fingerprint", "-d", NUMBER, "-np", WORKERS, "--verify_dataset_integrity", "--no_pbar"),
        ("mdkd_plan_and_preprocess", "--verify-only", "-j", WORKERS),
        1 / 5,
        1 / 2,
    ),
    Stage(
        "plan",
        ("nnUNetv2_plan_experiment", "-d", NUMBER),
        ("mdkd_plan_and_preprocess", "--plan-only", "-j", WORKERS),
        1 / 4,
        1 / 2,
    ),
    *(
        Stage(
            f"preprocess {part}",
            ("nnUNetv2_preprocess", "-d", NUMBER, "-c", part, "-np", WORKERS, "--no_pbar"),
            ("mdkd_plan_and_preprocess", "-c", part, "-j", WORKERS),
            1 / 3,
            1 / 2,
        )
        for part in ("3d_fullres", "2d")
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", required=True, help="Python of an environment with nnunetv2")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is shown (default 3)")
    parser.add_argument("--stages", nargs="+", choices=("costs", "fidelity"), default=("costs", "fidelity"))
    parser.add_argument("--folder", type=Path, help="where to work, kept afterwards (default: a temporary folder)")
    arguments = parser.parse_args(argv)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="against_nnunet_"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{machine()}\n- nnU-Net: {versions(arguments.nnunet_python, PACKAGES)}")
        print(f"- here: {versions(sys.executable, PACKAGES)}\n")
        if "costs" in arguments.stages:
            print(costs(Path(arguments.nnunet_python), folder, arguments.rounds), "\n")
        if "fidelity" in arguments.stages:
            print(fidelity.report(arguments.nnunet_python, folder))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    return 0


def costs(nnunet_python: Path, folder: Path, rounds: int) -> str:
    """Run every stage of both sides ``rounds`` times, in turns; returns the table."""
    spent: dict[tuple[str, str], list[Cost]] = {}
    for number in range(rounds):
        for key, cost in prepare(nnunet_python, folder, str(number), ours_first=number % 2 == 1).items():
            spent.setdefault(key, []).append(cost)
    return _cost_table(spent) + "\n\n" + _sizes(*work_folders(folder, "0"))


def work_folders(folder: Path, name: str) -> tuple[Path, Path]:
    """Where nnU-Net and where this package keep what they make in round ``name``."""
    return folder / f"nnunet_{name}", folder / f"here_{name}"


def nnunet_variables(folder: Path, theirs: Path) -> dict[str, str]:
    """The environment nnU-Net finds its folders by."""
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(theirs / "preprocessed"),
        "nnUNet_results": str(theirs / "results"),
    }


def prepare(
    nnunet_python: Path | None, folder: Path, name: str, ours_first: bool = False
) -> dict[tuple[str, str], Cost]:
    """All stages of both sides (or of this one) on the same raw data, from nothing; the cost by stage and side."""
    raw = folder / "raw"
    if not raw.is_dir():
        write_raw(raw)
    theirs, ours = work_folders(folder, name)
    for made in (theirs, ours):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
    shutil.copytree(raw, ours / "raw")
    spent = {}
    for stage in STAGES:
        sides = [("here", Path(sys.executable).parent, stage.ours, {"MDKD_ROOT": str(ours)})]
        if nnunet_python is not None:
            sides.insert(0, ("nnU-Net", nnunet_python.parent, stage.theirs, nnunet_variables(folder, theirs)))
        for side, programs, (program, *options), environment in sides[:: -1 if ours_first else 1]:
            os.sync()
            command = (str(programs / program), *options)
            spent[stage.name, side] = run(command, environment, folder / f"{side}.log")
    return spent


def _cost_table(spent: dict[tuple[str, str], list[Cost]]) -> str:
    rows = []
    for stage in STAGES:
        theirs, ours = (middle(spent[stage.name, side]) for side in ("nnU-Net", "here"))
        cpu, memory = ours.cpu_s / theirs.cpu_s, ours.peak_mib / theirs.peak_mib
        rows.append(
            [
                stage.name,
                f"{theirs.cpu_s:.2f}",
                f"{ours.cpu_s:.2f}",
                _ratio(cpu, stage.most_cpu),
                f"{theirs.wall_s:.1f}",
                f"{ours.wall_s:.1f}",
                f"{theirs.peak_mib:.0f}",
                f"{ours.peak_mib:.0f}",
                _ratio(memory, stage.most_memory),
            ]
        )
    head = (
        "stage",
        "CPU s nnU-Net",
        "CPU s here",
        "ratio",
        "wall s nnU-Net",
        "wall s here",
        f"peak MiB {MEMORY} nnU-Net",
        f"peak MiB {MEMORY} here",
        "ratio",
    )
    return table(head, rows)


def _ratio(ratio: float, most: float) -> str:
    return f"1/{1 / ratio:.1f}" + ("" if ratio <= most else f" (wanted 1/{1 / most:g})")


def _sizes(theirs: Path, ours: Path) -> str:
    """What lies on disk afterwards, so that a cheaper stage is not one that stored less."""
    rows = []
    for part in ("3d_fullres", "2d"):
        sizes = [
            sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
            for folder in (
                theirs / "preprocessed" / DATASET / f"nnUNetPlans_{part}",
                ours / "preprocessed" / DATASET / part,
            )
        ]
        rows.append([part, *(f"{size:.0f}" for size in sizes)])
    return table(("stored, MiB", "nnU-Net", "here"), rows)


if __name__ == "__main__":
    sys.exit(main())
