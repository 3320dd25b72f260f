"""What mdkd_doctor says of an installation and its machine. It needs no other package to be sound.

Nothing free enters a report: no text of an error message, only its type; no name that a user chose unless asked for.
"""

import getpass
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mdkd_auto
from mdkd_auto.core.extras import EXTRAS

GB = 2**30
LEAST_MEMORY_GB = 8
SECONDS_TO_ANSWER = 20  # for nvidia-smi
SHOWN_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLOSC_NTHREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class Finding(NamedTuple):
    """What is not as it should be, and what to do. An error makes the exit status 1."""

    level: Literal["error", "warning", "note"]
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}: {self.advice}"


class Unreadable(Exception):
    """Raised with words of our own, which may be shown."""


class Report:
    """Facts by section, and findings."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.findings: list[Finding] = []

    def find(self, level: Literal["error", "warning", "note"], what: str, advice: str) -> None:
        self.findings.append(Finding(level, what, advice))

    def probe(self, section: str, look: Callable[[], Any]) -> None:
        """Keep what ``look`` returns, if anything; where it fails, say so and go on."""
        try:
            facts = look()
            if facts is not None:
                self.facts[section] = facts
        except Exception as error:
            self.facts[section] = str(unread(error))
            self.find("error", f"{section} {unread(error)!s}", "mend the installation or the rights of the folder")

    def text(self) -> str:
        """All of it for a reader, findings last. Of the jobs only those that are not finished."""
        facts = dict(self.facts)
        if isinstance(jobs := facts.get("jobs"), list):
            states = [job["state"] for job in jobs]
            counts = {"all": f"{len(jobs)} jobs", **Counter(states)}
            facts["jobs"] = [counts] * bool(jobs) + [job for job in jobs if job["state"] != "finished" or len(job) > 2]
        findings = [str(finding) for finding in self.findings] or ["none"]
        return "\n".join(_lines({**facts, "findings": findings}))

    def content(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**self.facts, "findings": [finding._asdict() for finding in self.findings]}


class Unread(NamedTuple):
    """Why something could not be read, without names that the error's message may hold."""

    reason: str
    refused: bool  # the system refused: no right, a failing disk; the content may be sound

    def __str__(self) -> str:
        return f"could not be read: {self.reason}"


def unread(error: Exception) -> Unread:
    """What may be shown of an error: its type and errno, or the message of :class:`Unreadable`."""
    if isinstance(error, Unreadable):
        return Unread(str(error), refused=False)
    number = error.errno if isinstance(error, OSError) else None
    missing = isinstance(error, FileNotFoundError)
    refused = isinstance(error, PermissionError) or (bool(number) and not missing)
    return Unread(type(error).__name__ + (f" ({os.strerror(number)})" if number else ""), refused)


def attempt(look: Callable[..., Any], *arguments: Any) -> Any:
    """What ``look`` returns, or an :class:`Unread`."""
    try:
        return look(*arguments)
    except Exception as error:
        return unread(error)


def guarded(look: Callable[..., Any], *arguments: Any) -> Any:
    """What ``look`` returns, or the text that it could not be read."""
    result = attempt(look, *arguments)
    return str(result) if isinstance(result, Unread) else result


def shown_path(path: Path) -> str:
    """A path without the home directory, the user and the machine."""
    home = guarded(Path.home)
    if isinstance(home, Path) and path.is_relative_to(home) and home != Path(home.anchor):
        path = "~" / path.relative_to(home)
    for own in (guarded(getpass.getuser), platform.node(), platform.node().split(".")[0]):
        if len(own) > 2 and own != "root":
            path = Path(*("..." if own.lower() in part.lower() else part for part in path.parts))
    return path.as_posix()


def look_at_machine(report: Report, environment: dict[str, str]) -> None:
    """Versions, torch, GPUs, cores, memory, and the variables of ``environment``."""
    report.probe("versions", lambda: _versions(report))
    report.probe("torch", lambda: _torch(report))
    report.probe("machine", lambda: _machine(report))
    report.facts["environment"] = environment


def _versions(report: Report) -> dict[str, str]:
    found = {"mdkd_auto": mdkd_auto.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for requirement in importlib.metadata.requires("mdkd_auto") or ():
        match = re.match(r"([\w.-]+)\W*([\d.]*)", requirement)
        extra = re.search(r"extra == .([\w-]+)", requirement)
        if match is None or (extra and extra[1] not in [known.name for known in EXTRAS]):
            continue
        name, least = match.groups()
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if extra:
                found[name] = f"not installed (mdkd_auto[{extra[1]}])"
                continue
            found[name] = "missing"
            report.find("error", f"{name} is not installed", f"pip install '{name}>={least}'")
            continue
        if _numbers(found[name]) < _numbers(least):
            report.find("error", f"{name} {found[name]} is too old", f"pip install '{name}>={least}'")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _torch(report: Report) -> dict[str, Any]:
    """The build, and each GPU as the driver and as torch sees it."""
    import torch

    driver = guarded(_nvidia_smi)
    usable = torch.cuda.is_available()
    facts: dict[str, Any] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "hip": torch.version.hip or "none",
        "cuda_available": usable,
        "mps_available": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "nvidia-smi": driver or "none",
    }
    if usable:
        facts["gpus"] = [guarded(_gpu, number) for number in range(torch.cuda.device_count())]
        for number, gpu in enumerate(facts["gpus"]):
            if isinstance(gpu, str):
                advice = "update the driver, or install the torch build for this GPU: https://pytorch.org/get-started"
                report.find("error", f"GPU {number} {gpu}", advice)
    elif driver:
        cpu_build = torch.version.cuda is None and torch.version.hip is None
        what = "torch is a CPU build" if cpu_build else "torch cannot use it"
        advice = (
            "install the CUDA build: https://pytorch.org/get-started"
            if cpu_build
            else "see whether CUDA_VISIBLE_DEVICES hides it, else update the driver"
        )
        report.find("warning", f"GPU present but {what}", advice)
    return facts


def _gpu(number: int) -> dict[str, Any]:
    """A GPU that has just added two numbers. Raises whatever the driver raises."""
    import torch

    with torch.cuda.device(number):
        free, total = torch.cuda.mem_get_info()
        torch.ones(2, device="cuda").sum().item()
        return {
            "gpu": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "memory_gb": round(total / GB, 1),
            "free_gb": round(free / GB, 1),
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }


def _nvidia_smi() -> list[str]:
    """Name, memory and driver version of each GPU; [] without the program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=SECONDS_TO_ANSWER)
    return answer.stdout.splitlines()


def _machine(report: Report) -> dict[str, Any]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    limits = [int(text) for text in _limits("memory", "memory.max", "memory.limit_in_bytes") if text.isdecimal()]
    limit = min((limit for limit in limits if limit < memory.total), default=None)
    quotas = [text.split() for text in _limits("cpu", "cpu.max")]
    core_limit = min((int(part) / int(whole) for part, whole in quotas if part != "max"), default=None)
    total_gb = round((limit or memory.total) / GB, 1)
    if total_gb < LEAST_MEMORY_GB:
        where = "memory limit of the container" if limit else "memory of the machine"
        report.find("warning", f"{where} is {total_gb} GB", "raise it, or preprocess with -j 1 and small batches")
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": cores,
        "core_limit": core_limit or "none",
        "memory_gb": round(memory.total / GB, 1),
        "available_gb": round(memory.available / GB, 1),
        "memory_limit_gb": total_gb if limit else "none",
    }


def _limits(controller: str, *files: str) -> Iterator[str]:
    """What the control groups of this process, and those above them, say (versions 1 and 2; Linux only)."""
    own = Path("/proc/self/cgroup")
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = Path("/sys/fs/cgroup", controller if controllers else "")
        inside = Path(group.lstrip("/"))
        paths = [base / folder / name for folder in (inside, *inside.parents) for name in files]
        yield from (path.read_text().strip() for path in paths if path.is_file())


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """Nested values as indented lines; a list of records has one line each."""
    for name, part in value.items():
        if isinstance(part, dict) and part:
            yield f"{indent}{name}"
            yield from _lines(part, indent + "  ")
        elif isinstance(part, list) and part:
            yield f"{indent}{name}"
            yield from (f"{indent}  {_row(item)}" for item in part)
        else:
            yield f"{indent}{name}: {_line(part)}"


def _row(item: Any) -> str:
    """A record by its first value: Dataset011: task segmentation, cases 30."""
    if not isinstance(item, dict):
        return _line(item)
    first = next(iter(item))
    return f"{item[first]}: {_line({name: part for name, part in item.items() if name != first})}"


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_line(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return " x ".join(_line(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
