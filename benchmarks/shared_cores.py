"""What a training loses when other processes use the same cores, by how long OpenMP's threads spin while they wait.

    python benchmarks/shared_cores.py [--size 128 128] [--batch 8] [--width 16] [--rounds 3]

A network's threads wait for one another many times an update. A thread that spins meanwhile keeps its core from whoever
could use it; the commands let them spin briefly, then sleep (``mdkd_auto/cli/__init__.py``). Each way of waiting is
measured in processes of its own, alone and beside a second training of the same kind, in turns. Seconds are wall clock,
medians of the rounds.
"""

import argparse
import os
import subprocess
import sys
from statistics import median

import torch
from measuring import machine, table
from training import objectives, setup_of, timed, update

POLICIES: dict[str, dict[str, str]] = {
    "spin (GNU OpenMP's default)": {},
    "spin briefly (the commands)": {"GOMP_SPINCOUNT": "3000"},
    "sleep at once": {"OMP_WAIT_POLICY": "passive"},
}
UPDATES = 8
TASK = {"task": "segmentation", "arch": None, "student_width": None, "device": "cpu", "precision": "fp32"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[128, 128], help="of a patch, two or three numbers")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        print(_seconds_an_update(options))
        return 0
    found: dict[tuple[str, int], list[float]] = {(name, count): [] for name in POLICIES for count in (1, 2)}
    for number in range(options.rounds):
        for (name, processes), seconds_found in found.items():
            seconds_found.append(_together(processes, POLICIES[name]))
            print(f"round {number + 1}, {name}, {processes}: {seconds_found[-1]:.3f} s", file=sys.stderr)
    seconds = {key: median(values) for key, values in found.items()}
    print(f"{machine()}; PyTorch {torch.__version__}, {torch.get_num_threads()} threads a process\n")
    print(
        table(
            ["waiting threads", "alone, s an update", "two trainings, s an update of each", "two against alone"],
            [
                [
                    name,
                    f"{seconds[name, 1]:.3f}",
                    f"{seconds[name, 2]:.3f}",
                    f"{seconds[name, 2] / seconds[name, 1]:.2f} x",
                ]
                for name in POLICIES
            ],
        )
    )
    return 0


def _together(processes: int, environment: dict[str, str]) -> float:
    """Seconds of an update, the mean of ``processes`` trainings at once."""
    command = [sys.executable, *sys.argv, "--measured"]
    running = [
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in running) / processes


def _seconds_an_update(options: argparse.Namespace) -> float:
    setup = setup_of(argparse.Namespace(**vars(options), **TASK))
    call = update(objectives(setup, [])["teacher"], setup)
    timed(call, 2, setup.device)  # warm
    return timed(call, UPDATES, setup.device).wall_s


if __name__ == "__main__":
    sys.exit(main())
