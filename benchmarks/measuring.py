"""What a command costs: CPU seconds, wall seconds and peak memory of its whole process tree; tables of it."""

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

SAMPLING_SECONDS = 0.03
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"), "1")
MEMORY = "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS"  # PSS: shared pages are counted once


class Cost(NamedTuple):
    """Of one run of a command."""

    cpu_s: float  # user and system, all processes
    wall_s: float
    peak_mib: float  # largest sum over the process tree


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Cost:
    """Run a command with one thread a library; its output goes to ``log``. Raises RuntimeError where it fails."""
    started, peak, status = time.monotonic(), 0.0, 0
    with open(log, "ab") as output:
        child = subprocess.Popen(command, env={**os.environ, **THREADS, **environment}, stdout=output, stderr=output)
        process = psutil.Process(child.pid)
        while True:
            done, status, used = os.wait4(child.pid, os.WNOHANG)
            if done:
                break
            peak = max(peak, _tree_mib(process))
            time.sleep(min(SAMPLING_SECONDS, 0.001 + 0.05 * (time.monotonic() - started)))  # short runs: finely
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{tail}")
    return Cost(used.ru_utime + used.ru_stime, time.monotonic() - started, peak)


def _tree_mib(root: psutil.Process) -> float:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss if MEMORY == "PSS" else process.memory_info().rss
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
    except psutil.NoSuchProcess:
        pass
    return total / 2**20


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each number."""
    return Cost(*(median(values) for values in zip(*costs, strict=True)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def machine() -> str:
    """Processor, cores and system in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def versions(python: str, packages: Sequence[str]) -> str:
    """Python and packages of an interpreter, as far as they are installed."""
    code = (
        "import sys, importlib.metadata as m\n"
        "def v(p):\n"
        " try: return f'{p} {m.version(p)}'\n"
        " except m.PackageNotFoundError: return ''\n"
        "print(', '.join(filter(None, ['Python ' + sys.version.split()[0]] + [v(p) for p in sys.argv[1:]])))"
    )
    return subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout.strip()
