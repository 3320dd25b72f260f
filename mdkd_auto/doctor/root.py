"""What mdkd_doctor says of a root folder: its disk, data sets, plans, stored cases and jobs. No image is read.

Data sets go by their numbers, groups and jobs by names of the usual form; any other name is not shown.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
from filelock import FileLock, Timeout
from safetensors import safe_open

import mdkd_auto
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import ReadError, read_json, to_record, write_text
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.records import ConfigurationPlan, Dataset, Plan, Splits
from mdkd_auto.core.settings import Settings
from mdkd_auto.datasets.problems import KINDS, Problem, errors_of
from mdkd_auto.datasets.raw_folder import FOLDER_NAME, inspect_dataset
from mdkd_auto.datasets.splits import DAMAGED_SPLITS
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.doctor.machine import GB, Report, Unread, Unreadable, attempt, guarded, shown_path
from mdkd_auto.preprocessing.case_store import image_path, label_path, record_path

LOW_DISK_GB, LEAST_DISK_GB = 10, 1
SECONDS_OF_A_WRITE = 600  # a temporary file older than that is nobody's
GROUP = re.compile(rf"[A-Za-z0-9][A-Za-z0-9.-]*_({'|'.join(TASK_DATA)})")
RUN = re.compile(r"[A-Za-z]+(-\d+(sets)?)*__[A-Za-z0-9_.-]+-[0-9a-f]{8}__(2d|3d_fullres)/fold_\d+")
HIDDEN = "(another name)"
PLAN_AGAIN = "run mdkd_plan_and_preprocess"
TRAIN_AGAIN = "run the training command again: it goes on, and makes what is missing"
DELETE = "delete the folder and run the training command again; or use the version of mdkd_auto that wrote it"
RIGHTS = "the system does not let you read it: look at the rights of the folder, and at the disk"
READS_GONE = "runs that it reads are gone; its own weights are whole, the training command makes the others again"
MOST_SHOWN = 3  # of the jobs that a finding names; the section names all
VERSION = re.compile(r"\d+(\.\d+)+((a|b|rc|\.dev|\.post)\d+)?")

Kind = TypeVar("Kind")


class _Look(NamedTuple):
    """What the parts of the report share."""

    report: Report
    root: Root
    names: bool
    datasets: dict[str, Dataset]  # those that can be read, by name; filled by the first part

    def name(self, folder: str) -> str:
        """A data set or group by the name of its folder."""
        if FOLDER_NAME.fullmatch(folder):
            return folder if self.names else folder[:10]
        return folder if GROUP.fullmatch(folder) else HIDDEN


def look_at_root(report: Report, root: Root, given: str, names: bool = False) -> None:
    """``given``: where the root comes from. ``names``: show whole names of data sets, not only their numbers."""
    report.probe("root", lambda: _folder(report, root, given))
    if not os.path.isdir(root.folder):
        return
    look = _Look(report, root, names, {})
    report.probe("data sets", lambda: _datasets(look))
    report.probe("plans", lambda: _plans(look))
    report.probe("jobs", lambda: _jobs(look))
    report.probe("interrupted writes", lambda: _leftovers(look))


# --- the folder itself ----------------------------------------------------------------------------------------------


def _folder(report: Report, root: Root, given: str) -> dict[str, Any]:
    folder = root.folder
    facts: dict[str, Any] = {"path": shown_path(folder), "given_by": given}
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        advice = "give --root or MDKD_ROOT, and put data sets into its folder raw/"
        report.find("note" if given == "default" and not folder.exists() else "error", f"the root {state}", advice)
        return {**facts, "state": state}
    free_gb = round(shutil.disk_usage(folder).free / GB, 1)
    if free_gb < LOW_DISK_GB:
        advice = f"less than {LOW_DISK_GB} GB: make room, or use a root on another disk"
        report.find("error" if free_gb < LEAST_DISK_GB else "warning", f"{free_gb} GB free", advice)
    parts = {"root": folder, "preprocessed": root.preprocessed, "results": root.results}
    for name, part in {**parts, "raw": root.raw}.items():
        if os.path.islink(part) and not os.path.exists(part):
            report.find("error", f"{name} is a link to nothing", "mount the drive, or correct the link")
        elif os.path.lexists(part) and not part.is_dir():
            report.find("error", f"{name} is a file; expected a folder", "move it elsewhere, or use another root")
    trials = {name: attempt(_trial, part) for name, part in parts.items() if part.is_dir()}
    for name, trial in trials.items():
        if isinstance(trial, Unread):
            needed = name != "root" or len(trials) < len(parts)
            advice = "give yourself the right to write there, or use another root"
            report.find("error" if needed else "note", f"{name}: no file can be written: {trial.reason}", advice)
        elif trial["locks"] != "work":
            report.find("warning", f"{name}: locks {trial['locks']}", "let only one process train in this root")
    return {
        **facts,
        "free_gb": free_gb,
        "file_system": guarded(_file_system, folder),
        "writing": {name: str(trial) if isinstance(trial, Unread) else trial for name, trial in trials.items()},
    }


def _file_system(folder: Path) -> str:
    path = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype


def _trial(folder: Path) -> dict[str, Any]:
    """Write, compare names and lock as training does, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".tmp_doctor_", dir=folder) as made:
        write_text(Path(made, "trial.txt"), "trial")
        return {"case_sensitive": not Path(made, "TRIAL.txt").exists(), "locks": guarded(_locks, Path(made))}


def _locks(folder: Path) -> str:
    with FileLock(folder / ".lock", timeout=0):
        return "work" if _locked(folder / ".lock") else "do not keep a second process out"


def _locked(lock: Path) -> bool:
    """Whether a process holds the lock; False where that cannot be tried."""
    if not os.access(lock, os.W_OK):
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


# --- data sets and plans --------------------------------------------------------------------------------------------


def _datasets(look: _Look) -> list[dict[str, Any]]:
    if not look.root.raw.is_dir():
        if not os.path.lexists(look.root.raw):  # else it is named before
            look.report.find("warning", "the root has no folder raw/", "put DatasetNNN_Name folders there")
        return []
    rows = []
    for folder in sorted(look.root.raw.iterdir()):
        if folder.name.lower().startswith("dataset") or guarded((folder / "dataset.json").is_file) is True:
            facts = attempt(_dataset, look, folder)
            if isinstance(facts, Unread):
                look.report.find("error", f"{look.name(folder.name)} {facts}", RIGHTS)
                facts = {"state": str(facts)}
            rows.append({"data set": look.name(folder.name), **facts})
    for number, count in Counter(name[:10] for name in look.datasets).items():
        if count > 1:
            look.report.find("error", f"{number} is there {count} times", KINDS["number-twice"].remedy)
    return rows


def _dataset(look: _Look, folder: Path) -> dict[str, Any]:
    """Counts, and what is wrong by kind: what exactly was found may hold names."""
    dataset, problems = inspect_dataset(folder)
    kinds = Counter(problem.kind for problem in problems)
    for kind, count in kinds.items():
        look.report.find(KINDS[kind].severity, f"{look.name(folder.name)}: {count} x {kind}", KINDS[kind].remedy)
    if dataset is None:
        return dict(kinds)
    look.datasets[dataset.name] = dataset
    return {
        "task": dataset.task,
        "group": dataset.modality,
        "cases": len(dataset.cases),
        "channels": len(dataset.channel_names),
        "classes": len(dataset.labels),
        "ending": dataset.file_ending,
        **kinds,
    }


def _plans(look: _Look) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(look.root.preprocessed.glob("*/plan.json")):
        group = look.name(path.parent.name)
        found = attempt(_plan, look, path, group)
        if isinstance(found, Unread):
            look.report.find(
                "error", f"plan of {group} {found}", _advice(found.refused, f"delete its plan.json and {PLAN_AGAIN}")
            )
            found = [{"plan": group, "state": str(found)}]
        rows += found
    return rows


def _plan(look: _Look, path: Path, group: str) -> list[dict[str, Any]]:
    """One line for the plan, and one for each configuration."""
    plan = _record(path, Plan)
    names = [part.dataset for part in plan.datasets]
    facts: dict[str, Any] = {"plan": group, "memory_gb": plan.memory_gb, "data sets": len(names)}
    gone = [name for name in names if not (look.root.raw / name).is_dir()]
    new = [one.name for one in look.datasets.values() if one.group == plan.group and one.name not in names]
    for words, concerned in (("no longer in raw/", gone), ("not planned yet", new)):
        if concerned:
            facts[words] = ", ".join(look.name(name) for name in concerned)
            look.report.find("warning", f"plan of {group}: {words}: {facts[words]}", PLAN_AGAIN)
    for name in names:
        _splits(look, name)
    return [facts, *(_configuration(look, group, part) for part in plan.configurations)]


def _splits(look: _Look, name: str) -> None:
    """Find stored splits that training could not read."""
    path = look.root.splits(name)
    if not os.path.lexists(path):
        look.report.find("error", f"splits of {look.name(name)} are missing", PLAN_AGAIN)
        return
    splits = attempt(_record, path, Splits)
    if isinstance(splits, Unread):
        advice = _advice(splits.refused, DAMAGED_SPLITS)
        look.report.find("error", f"splits of {look.name(name)} {splits}", advice)


def _configuration(look: _Look, group: str, plan: ConfigurationPlan) -> dict[str, Any]:
    stored = {}
    left_out = _left_out(look.root)
    for name in plan.datasets:
        if name not in look.datasets:
            stored[look.name(name)] = "unknown"
            continue
        cases = [case.case_id for case in look.datasets[name].cases if (name, case.case_id) not in left_out]
        folder = look.root.cases(name, plan.configuration)
        files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        whole = [
            case
            for case in cases
            if {make(folder, case).name for make in (image_path, label_path, record_path)} <= files
        ]
        stored[look.name(name)] = f"{len(whole)} of {len(cases)}"
        if len(whole) < len(cases):
            what = f"{look.name(name)} {plan.configuration}: {len(cases) - len(whole)} cases are not preprocessed"
            look.report.find("warning", what, PLAN_AGAIN)
    return {
        "configuration": f"{group} {plan.configuration}",
        "spacing_mm": plan.spacing_mm,
        "patch": plan.patch_size,
        "batch": plan.batch_size,
        "stored": stored,
    }


def _left_out(root: Root) -> set[tuple[str, str]]:
    """Data set and case of all that the last check found wrong: what --exclude-broken leaves out."""
    try:
        problems = to_record(read_json(root.integrity), list[Problem], "")
    except MdkdError:
        return set()
    return {(one.dataset, one.case_id) for one in errors_of(problems)}


def _record(path: Path, kind: type[Kind]) -> Kind:
    """Read a record. Raises Unreadable in words that hold nothing of the file."""
    try:
        content = read_json(path, any_number=True)
    except ReadError as error:
        raise error.__cause__ or error from None
    except MdkdError:
        raise Unreadable("missing, or not valid JSON") from None
    try:
        return to_record(content, kind, "")
    except MdkdError:
        raise Unreadable("not the fields that this version writes") from None


def _advice(refused: bool, usual: str) -> str:
    """Advise against deleting what only the system refuses to read."""
    return RIGHTS if refused else usual


# --- jobs -----------------------------------------------------------------------------------------------------------


def _jobs(look: _Look) -> list[dict[str, Any]]:
    rows = []
    remedies: dict[tuple[str, str], list[str]] = {}
    for folder in sorted(look.root.results.glob("*/*/fold_*")):
        target, *run = folder.relative_to(look.root.results).parts
        name = "/".join(run)
        shown = f"results/{look.name(target)}/{name if RUN.fullmatch(name) else HIDDEN}"
        job = attempt(_job, look.root.results, folder)
        if isinstance(job, Unread):
            job = {"state": "broken", "why": str(job)}, _advice(job.refused, DELETE)
        facts, remedy = job
        rows.append({"job": shown, **facts})
        if remedy:
            remedies.setdefault((facts["state"], remedy), []).append(shown)
    for (state, remedy), jobs in remedies.items():
        shown = ", ".join(jobs[:MOST_SHOWN]) + (", ..." if len(jobs) > MOST_SHOWN else "")
        look.report.find("error" if state == "broken" else "note", f"jobs: {len(jobs)} {state} ({shown})", remedy)
    return rows


def _job(results: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """The state of a job, and what to do where there is something to do."""
    from mdkd_auto.training.loop import LATEST

    files, latest = RunFolder(folder), folder / LATEST
    if _locked(files.lock):
        return {"state": "running"}, ""
    finished = files.finished.is_file()
    if not (finished or latest.is_file() or files.description.is_file()):
        return {"state": "empty"}, TRAIN_AGAIN
    parts = _parts(files, latest)
    wrong = {path.name: part for path, part in parts.items() if isinstance(part, Unread)}
    if wrong:
        rewritten = not finished and list(wrong) == [files.description.name]
        refused = any(part.refused for part in wrong.values())
        why = "; ".join(f"{name} {part}" for name, part in wrong.items())
        return {"state": "broken", "why": why}, _advice(refused, TRAIN_AGAIN if rewritten else DELETE)
    run = parts[files.description]
    facts = {"version": run.version} if VERSION.fullmatch(run.version) and run.version != mdkd_auto.__version__ else {}
    gone = sum(not (results / read).is_dir() for read in run.job.reads)
    if gone:
        facts["why"] = f"{gone} of {len(run.job.reads)} runs that it reads are gone"
    if finished:
        return {"state": "finished", **facts}, READS_GONE if gone else ""
    facts |= _progress(run.settings, latest, parts[latest])
    return {"state": "broken" if gone else "interrupted", **facts}, TRAIN_AGAIN


def _parts(files: RunFolder, latest: Path) -> dict[Path, Any]:
    """The files of a started job, each read or an Unread."""
    from mdkd_auto.execution.run_folder import Finished, RunRecord

    finished = files.finished.is_file()
    parts = {files.description: attempt(_record, files.description, RunRecord)}
    parts[latest] = attempt(_update, latest) if latest.is_file() and not finished else 0
    if finished:
        parts[files.finished] = attempt(_record, files.finished, Finished)
    if finished or files.best.is_file():
        parts[files.best] = attempt(_metadata, files.best)
    return parts


def _progress(settings: Settings, latest: Path, update: int) -> dict[str, str]:
    """How far an unfinished job is, and when it was saved."""
    facts = {"update": f"{update} of {settings.epochs * settings.iterations_per_epoch}"}
    if latest.is_file():
        facts["saved"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(latest.stat().st_mtime))
    return facts


def _update(latest: Path) -> int:
    """How far the checkpoint of an unfinished job is."""
    return int(json.loads(_metadata(latest)["training_state"])["update"])


def _metadata(weights: Path) -> dict[str, str]:
    """The header of a safetensors file, which also says whether the file is whole."""
    with open(weights, "rb"), safe_open(weights, framework="numpy") as file:  # the latter calls every refusal missing
        return file.metadata() or {}


def _leftovers(look: _Look) -> dict[str, Any]:
    """Temporary files of writes that a crash or a full disk cut short."""
    sizes = []
    for part in (look.root.preprocessed, look.root.results):
        for folder, _, names in os.walk(part):
            found = [guarded(os.stat, os.path.join(folder, name)) for name in names if name.startswith(".tmp_")]
            still = [one for one in found if isinstance(one, os.stat_result)]
            sizes += [one.st_size for one in still if time.time() - one.st_mtime > SECONDS_OF_A_WRITE]
    size_gb = round(sum(sizes) / GB, 3)
    if sizes:
        advice = "delete the files .tmp_* under preprocessed/ and results/ while nothing runs"
        look.report.find("note", f"files of interrupted writes: {len(sizes)}, {size_gb} GB", advice)
    return {"files": len(sizes), "size_gb": size_gb}
