"""How long every command takes to say --help, and what the imports behind planning cost.

python benchmarks/startup.py [--runs 7]
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from measuring import Cost, machine, middle, run, table, versions

PACKAGE = "mdkd_auto"
MOST_SECONDS = 0.3
IMPORTED = {  # what is imported by whom
    "the plan command": "mdkd_auto.preparation",
    "its workers: fingerprint": "mdkd_auto.planners.fingerprint",
    "its workers: preprocessing": "mdkd_auto.preprocessing.dataset",
}
HEAVY = ("torch", "scipy", "numpy", "blosc2", "nibabel", "SimpleITK", "matplotlib", "PIL", "cc3d", "rich", "psutil")
SHOWN = 6  # packages of an import


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="of which the median is shown (default 7)")
    arguments = parser.parse_args(argv)
    programs = sorted(
        script.name for script in entry_points(group="console_scripts") if script.value.startswith(f"{PACKAGE}.")
    )
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        f"import {PACKAGE}": [sys.executable, "-c", f"import {PACKAGE}"],
        **{f"{name} --help": [str(Path(sys.executable).parent / name), "--help"] for name in programs},
        **{f"import for {who}": [sys.executable, "-c", f"import {what}"] for who, what in IMPORTED.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        spent = {
            name: middle([run(command, {}, log) for _ in range(arguments.runs)]) for name, command in commands.items()
        }
    print(f"{machine()}\n- {versions(sys.executable, (PACKAGE, *HEAVY))}\n")
    bare = spent["python -c pass"]
    print(
        table(
            ("command", "CPU s", "wall s", "CPU against python -c pass"),
            [_row(name, cost, bare) for name, cost in spent.items()],
        )
    )
    print(
        "\n"
        + table(
            ("imported for", "ms of the packages that take longest"),
            [[who, _shares(what)] for who, what in IMPORTED.items()],
        )
    )
    return 0


def _row(name: str, cost: Cost, bare: Cost) -> list[str]:
    slow = name.endswith("--help") and max(cost.cpu_s, cost.wall_s) > MOST_SECONDS
    verdict = f" (wanted {MOST_SECONDS:g})" if slow else ""
    return [name, f"{cost.cpu_s:.3f}", f"{cost.wall_s:.3f}{verdict}", f"{cost.cpu_s / bare.cpu_s:.1f} x"]


def _shares(module: str) -> str:
    """The packages that take longest, of ``python -X importtime``; one that should not be there is named first."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    spent: dict[str, int] = {}
    for line in lines:
        found = re.match(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)", line)
        if found:
            package = found[2].split(".")[0]
            spent[package] = spent.get(package, 0) + int(found[1])
    longest = sorted(spent, key=lambda package: -spent[package])[:SHOWN]
    text = ", ".join(f"{package} {spent[package] / 1000:.0f}" for package in longest)
    return f"TORCH IS IMPORTED; {text}" if "torch" in spent else text


if __name__ == "__main__":
    sys.exit(main())
