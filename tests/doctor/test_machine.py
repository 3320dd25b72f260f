"""What the doctor says of a machine and a root, whatever state they are in; and that it says no names."""

import errno
import getpass
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest
import torch
from filelock import FileLock

import mdkd_auto
from mdkd_auto import pipeline
from mdkd_auto.core.files import ReadError, write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.records import Plan
from mdkd_auto.core.settings import Settings
from mdkd_auto.datasets.raw_folder import inspect_dataset
from mdkd_auto.doctor import machine as doctor
from mdkd_auto.doctor import root as doctor_root
from mdkd_auto.doctor.machine import Report, Unreadable, look_at_machine, shown_path, unread
from mdkd_auto.doctor.root import look_at_root
from mdkd_auto.execution.run_folder import Finished, RunRecord, describe
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.stages.job import Job
from mdkd_auto.training.checkpoints import save_training, save_weights
from mdkd_auto.training.loop import FINAL, LATEST

A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"
PATIENT = "Mueller_Hans_1950"
GROUP = "CT_segmentation"
FINISHED = Finished(
    updates=6,
    seconds=1.0,
    seconds_per_update=0.1,
    best_validation_loss=1.0,
    best_validation_score=0.5,
    validation_share=0.1,
    parts=1,
)

pytestmark = pytest.mark.usefixtures("one_thread")
Copied = Callable[[Root], Root]


def looked(root: Root, names: bool = False, given: str = "--root") -> Report:
    report = Report()
    look_at_root(report, root, given, names)
    return report


def said(report: Report, level: str) -> list[str]:
    return [str(finding) for finding in report.findings if finding.level == level]


# --- installation and machine ---------------------------------------------------------------------------------------


def machine() -> Report:
    report = Report()
    look_at_machine(report, {"OMP_NUM_THREADS": "1"})
    return report


def test_this_machine() -> None:
    report = machine()
    assert report.facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+", maxsplit=1)[0]
    assert report.facts["versions"]["python"] == platform.python_version()
    assert report.facts["torch"]["version"] == torch.__version__
    assert 0 < report.facts["machine"]["available_gb"] <= report.facts["machine"]["memory_gb"]
    assert 1 <= report.facts["machine"]["cores_usable"] <= report.facts["machine"]["cores"]
    assert report.facts["environment"] == {"OMP_NUM_THREADS": "1"}
    json.dumps(report.content())


def test_packages_missing_and_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["filelock>=999.1", "numpy (>=1.0)", "not-there-at-all>=2.0", "pytest>=999; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    report = machine()
    errors = said(report, "error")
    assert len(errors) == 2
    assert "filelock" in errors[0]
    assert "too old: pip install 'filelock>=999.1'" in errors[0]
    assert errors[1] == "error: not-there-at-all is not installed: pip install 'not-there-at-all>=2.0'"
    assert report.facts["versions"]["not-there-at-all"] == "missing"
    assert "pytest" not in report.facts["versions"]


def test_packages_of_extras_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["not-there-at-all>=2.0; extra == 'detection'", "mdkd_auto[detection]; extra == 'all'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    report = machine()
    assert said(report, "error") == []
    assert report.facts["versions"]["not-there-at-all"] == "not installed (mdkd_auto[detection])"
    assert report.facts["versions"]["mdkd_auto"] == mdkd_auto.__version__


def test_a_probe_that_fails_says_its_type_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError(PATIENT)

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    monkeypatch.setattr(torch.cuda, "is_available", broken)
    report = machine()
    assert report.facts["machine"] == report.facts["torch"] == "could not be read: RuntimeError"
    assert len(said(report, "error")) == 2
    assert PATIENT not in report.text()


class _Gpu(NamedTuple):
    """Stands for torch.cuda.device(number)."""

    number: int

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def with_gpus(monkeypatch: pytest.MonkeyPatch, ones: Callable[..., torch.Tensor]) -> Report:
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "mem_get_info": (30 * 2**30, 80 * 2**30),
        "get_device_name": "NVIDIA H100",
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(torch.cuda, "device", _Gpu)
    monkeypatch.setattr(torch, "ones", ones)
    return machine()


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones
    report = with_gpus(monkeypatch, lambda size, device: ones(size))
    gpu = {"gpu": "NVIDIA H100", "capability": "9.0", "memory_gb": 80.0, "free_gb": 30.0, "bf16": True}
    assert report.facts["torch"]["gpus"] == [gpu]
    assert "NVIDIA H100: capability 9.0, memory_gb 80, free_gb 30, bf16 yes" in report.text()
    assert not said(report, "error")


def test_a_gpu_that_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    report = with_gpus(monkeypatch, no_kernel)
    (error,) = said(report, "error")
    assert error.startswith("error: GPU 0 could not be read: RuntimeError: update the driver, or install")


@pytest.mark.parametrize(
    ("cuda", "words"), [(None, ("torch is a CPU build", "install the CUDA build")), ("13.0", ("CUDA_VISIBLE_DEVICES",))]
)
def test_a_gpu_that_torch_does_not_use(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, words: tuple[str, ...]
) -> None:
    answer = subprocess.CompletedProcess([], 0, "NVIDIA H100, 81559 MiB, 570.1\n", "")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    report = machine()
    assert report.facts["torch"]["nvidia-smi"] == ["NVIDIA H100, 81559 MiB, 570.1"]
    (warning,) = [warning for warning in said(report, "warning") if "GPU present" in warning]
    assert all(word in warning for word in words)


def test_limits_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"memory": [str(2**63 - 4096), str(4 * 2**30), "max"], "cpu": ["150000 100000", "max 100000"]}
    monkeypatch.setattr(doctor, "_limits", lambda controller, *files: answers[controller])
    report = machine()
    assert report.facts["machine"]["memory_limit_gb"] == 4.0
    assert report.facts["machine"]["core_limit"] == 1.5
    assert "memory limit of the container is 4.0 GB" in said(report, "warning")[0]


def test_paths_are_shown_without_home_user_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/users/hmueller"))
    monkeypatch.setattr(getpass, "getuser", lambda: "hmueller")
    monkeypatch.setattr(platform, "node", lambda: "xray7.clinic.org")
    assert shown_path(Path("/users/hmueller/data/mdkd")) == "~/data/mdkd"
    assert shown_path(Path("/mnt/HMueller_work/xray7/mdkd")) == "/mnt/.../.../mdkd"
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert shown_path(Path("/root_disk/mdkd")) == "/root_disk/mdkd"


# --- the root folder ------------------------------------------------------------------------------------------------


def test_no_root(tmp_path: Path) -> None:
    report = looked(Root(tmp_path / "no"))
    assert report.facts["root"]["state"] == "does not exist"
    assert said(report, "error") == [str(report.findings[0])]
    assert not (tmp_path / "no").exists()
    assert said(looked(Root(tmp_path / "no"), given="default"), "error") == []


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    report = looked(Root(path), given="default")
    assert "the root is a file" in said(report, "error")[0]
    assert set(report.facts) == {"root"}


def test_an_empty_root(tmp_path: Path) -> None:
    report = looked(Root(tmp_path))
    assert "no folder raw/" in said(report, "warning")[0]
    assert report.facts["data sets"] == report.facts["plans"] == report.facts["jobs"] == []
    assert report.facts["root"]["writing"]["root"]["locks"] == "work"
    assert report.facts["root"]["file_system"].isprintable()
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize("name", ["raw", "preprocessed", "results"])
def test_a_file_or_a_link_to_nothing_in_place_of_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    assert f"{name} is a file; expected a folder" in said(looked(Root(tmp_path)), "error")[0]
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    assert f"{name} is a link to nothing" in said(looked(Root(tmp_path)), "error")[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"test": [], "folds": 3}', None])
def test_splits_that_cannot_be_read(planned: Root, copied: Copied, text: str | None) -> None:
    root = copied(planned)
    root.splits(A).unlink()
    if text is not None:
        root.splits(A).write_text(text)
    (error,) = said(looked(root), "error")
    assert error.startswith("error: splits of Dataset901 ")
    assert "run mdkd_plan_and_preprocess" in error
    assert A not in error


def test_a_root_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, f"no right to {path}")

    monkeypatch.setattr(doctor_root, "write_text", refuse)
    report = looked(Root(tmp_path))
    (error,) = said(report, "error")
    assert "root: no file can be written: PermissionError (Permission denied)" in error
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / "results").mkdir()
    assert len(said(looked(Root(tmp_path)), "error")) == 2  # these two; the root itself need not be written


def test_locks_that_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_root, "_locked", lambda lock: False)
    assert "locks do not keep a second process out" in said(looked(Root(tmp_path)), "warning")[0]


@pytest.mark.parametrize(("free_gb", "level"), [(100, None), (5, "warning"), (0.5, "error")])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float, level: str | None) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free_gb * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (tmp_path / "raw").mkdir()
    report = looked(Root(tmp_path))
    assert [finding.level for finding in report.findings] == ([level] if level else [])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_folders_without_rights(planned: Root, copied: Copied) -> None:
    root = copied(planned)
    for folder in (root.raw / A / "imagesTr", root.results, root.preprocessed):
        folder.mkdir(exist_ok=True)
        folder.chmod(0)
    report = looked(root)
    for folder in (root.raw / A / "imagesTr", root.results, root.preprocessed):
        folder.chmod(0o755)
    assert "Dataset901 could not be read: PermissionError (Permission denied)" in "".join(said(report, "error"))
    assert report.facts["data sets"][1]["cases"] == 4


def test_a_data_set_without_rights(planned: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> Any:
        if folder.name == A:
            raise PermissionError(13, "no", f"{folder}/imagesTr/{PATIENT}")
        return inspect_dataset(folder)

    monkeypatch.setattr(doctor_root, "inspect_dataset", refuse)
    report = looked(planned)
    state = "could not be read: PermissionError (Permission denied)"
    assert report.facts["data sets"][0] == {"data set": "Dataset901", "state": state}
    assert report.facts["data sets"][1]["cases"] == 4
    assert report.facts["plans"][1]["stored"] == {
        "Dataset901": "unknown",
        "Dataset902": "4 of 4",
        "Dataset903": "4 of 4",
    }
    assert PATIENT not in report.text()


# --- data sets and plans --------------------------------------------------------------------------------------------


def test_a_planned_root(planned: Root) -> None:
    report = looked(planned)
    assert report.findings == []
    assert report.facts["data sets"][0] == {
        "data set": "Dataset901",
        "task": "segmentation",
        "group": "CT",
        "cases": 4,
        "channels": 1,
        "classes": 1,
        "ending": ".nii.gz",
    }
    plan, flat, _ = report.facts["plans"]
    assert plan == {"plan": GROUP, "memory_gb": 8.0, "data sets": 3}
    assert flat["configuration"] == "CT_segmentation 2d"
    assert flat["stored"] == {"Dataset901": "4 of 4", "Dataset902": "4 of 4", "Dataset903": "4 of 4"}
    assert "RoundBright" not in report.text()
    assert "Dataset901_RoundBright: task segmentation" in looked(planned, names=True).text()


def test_a_plan_of_a_missing_data_set_and_without_a_new_one(planned: Root, copied: Copied) -> None:
    root = copied(planned)
    (root.raw / B).rename(root.raw / "Dataset904_Renamed")
    warnings = said(looked(root), "warning")
    assert "plan of CT_segmentation: no longer in raw/: Dataset902: run mdkd_plan_and_preprocess" in warnings[0]
    assert "not planned yet: Dataset904" in warnings[1]


def test_cases_that_are_not_preprocessed(planned: Root, copied: Copied) -> None:
    root = copied(planned)
    (root.cases(A, "2d") / "case_000_seg.b2nd").unlink()
    (root.cases(A, "2d") / "case_001.json").unlink()
    shutil.rmtree(root.cases(B, "3d_fullres"))
    report = looked(root)
    assert report.facts["plans"][1]["stored"]["Dataset901"] == "2 of 4"
    assert report.facts["plans"][2]["stored"]["Dataset902"] == "0 of 4"
    assert len(said(report, "warning")) == 2


def test_cases_that_were_left_out_are_not_missed(planned: Root, copied: Copied) -> None:
    root = copied(planned)
    label = sorted((root.raw / A / "labelsTr").iterdir())[0]
    label.write_bytes(b"broken")
    pipeline.plan_and_preprocess(root, request=PlanRequest(exclude_broken=True))
    case = label.name.removesuffix(".nii.gz")
    for folder in (root.cases(A, name) for name in ("2d", "3d_fullres")):
        for stored in folder.glob(f"{case}*"):
            stored.unlink()
    report = looked(root)
    assert not [line for line in said(report, "warning") if "not preprocessed" in line]
    root.integrity.write_text("{")
    assert [line for line in said(looked(root), "warning") if "1 cases are not preprocessed" in line]


@pytest.mark.parametrize("content", ["{", '{"group": 1}', "[]", "\x00"])
def test_a_damaged_plan(planned: Root, copied: Copied, content: str) -> None:
    root = copied(planned)
    root.plan(GROUP).write_text(content)
    report = looked(root)
    assert report.facts["plans"][0]["state"].startswith("could not be read: ")
    assert "plan of CT_segmentation could not be read" in said(report, "error")[0]
    assert "delete its plan.json" in said(report, "error")[0]


def test_two_data_sets_of_one_number(planned: Root, copied: Copied) -> None:
    root = copied(planned)
    (root.raw / B).rename(root.raw / "Dataset901_Again")
    assert "Dataset901 is there 2 times" in said(looked(root), "error")[0]


# --- jobs -----------------------------------------------------------------------------------------------------------


class Jobs(NamedTuple):
    """A root with the jobs of one permutation, all finished."""

    experiment: Experiment
    jobs: list[Job]

    @property
    def root(self) -> Root:
        return self.experiment.root

    def folder(self, stage: str) -> RunFolder:
        return RunFolder(self.root.results / next(job.folder for job in self.jobs if job.stage == stage))

    def interrupt(self, stage: str, update: int = 3) -> RunFolder:
        """Make the job one that was stopped after ``update``."""
        folder, model = self.folder(stage), torch.nn.Linear(2, 1)
        folder.finished.unlink()
        save_training(folder.folder / LATEST, model, torch.optim.Adam(model.parameters()), {"update": update})
        return folder

    def rows(self, state: str) -> list[dict[str, Any]]:
        return [row for row in looked(self.root).facts["jobs"] if row["state"] == state]


@pytest.fixture
def jobs(planned: Root, copied: Copied, experiment_in: Callable[..., Experiment]) -> Jobs:
    experiment = experiment_in(copied(planned), Settings(device="cpu", epochs=2, iterations_per_epoch=5))
    made = JobMaker(experiment).permutation(A, (B, C))
    for job in made:
        folder = RunFolder(experiment.root.results / job.folder)
        write_json(folder.description, describe(experiment, job))
        write_json(folder.finished, FINISHED)
        for path in (folder.best, folder.folder / FINAL):
            save_weights(path, torch.nn.Linear(2, 1))
    return Jobs(experiment, made)


def test_finished_jobs(jobs: Jobs) -> None:
    report = looked(jobs.root)
    assert report.findings == []
    assert len(jobs.rows("finished")) == 6
    assert "\n  6 jobs: finished 6\n" in report.text()
    assert report.text().count("Student") == 0


def test_an_interrupted_job(jobs: Jobs) -> None:
    folder = jobs.interrupt("student")
    os.utime(folder.folder / LATEST, (1_700_000_000, 1_700_000_000))
    (row,) = jobs.rows("interrupted")
    assert row["job"].startswith("results/Dataset901/Student-902-903__UNet-")
    assert row["job"].endswith("__2d/fold_0")
    assert row["update"] == "3 of 10"
    assert row["saved"].startswith("2023-11-1")
    report = looked(jobs.root)
    assert said(report, "error") == []
    assert "1 interrupted" in said(report, "note")[0]
    assert f"{row['job']}: state interrupted, update 3 of 10" in report.text()


def test_jobs_that_have_hardly_begun(jobs: Jobs) -> None:
    jobs.folder("student").finished.unlink()
    empty = jobs.folder("teacher")
    shutil.rmtree(empty.folder)
    empty.folder.mkdir()
    assert jobs.rows("interrupted")[0]["update"] == "0 of 10"
    assert len(jobs.rows("empty")) == 1


def test_a_running_job(jobs: Jobs) -> None:
    folder = jobs.interrupt("student")
    with FileLock(folder.lock):
        assert len(jobs.rows("running")) == 1
    assert len(jobs.rows("interrupted")) == 1  # a lock file alone holds nothing


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: folder.description.write_text("{"), "run.json could not be read: missing, or not valid JSON"),
        (lambda folder: folder.description.unlink(), "run.json could not be read: missing, or not valid JSON"),
        (lambda folder: folder.description.write_text("{}"), "run.json could not be read: not the fields that this"),
        (lambda folder: folder.finished.write_text("[]"), "finished.json could not be read: not the fields that this"),
        (lambda folder: folder.best.unlink(), "checkpoint_best.safetensors could not be read: FileNotFoundError"),
        (lambda folder: truncate(folder.best), "checkpoint_best.safetensors could not be read: SafetensorError"),
    ],
)
def test_broken_finished_jobs(jobs: Jobs, harm: Callable[[RunFolder], Any], words: str) -> None:
    harm(jobs.folder("student"))
    (row,) = jobs.rows("broken")
    assert row["why"].startswith(words)
    (error,) = said(looked(jobs.root), "error")
    assert f"1 broken ({row['job']}): delete the folder and run the training command again" in error


def test_nothing_is_deleted_that_may_be_sound(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, any_number: bool) -> Any:
        raise ReadError(str(path), "no right") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_root, "read_json", refuse)
    report = looked(jobs.root)
    assert len(said(report, "error")) == 2  # the plan; six jobs
    for error in said(report, "error"):
        assert "PermissionError (Permission denied)" in error or "6 broken" in error
        assert "delete" not in error


def test_a_broken_checkpoint(jobs: Jobs) -> None:
    truncate(jobs.interrupt("student").folder / LATEST)
    assert jobs.rows("broken")[0]["why"] == "checkpoint_latest.safetensors could not be read: SafetensorError"
    model = torch.nn.Linear(2, 1)
    save_weights(jobs.folder("student").folder / LATEST, model)  # no training state
    assert "checkpoint_latest.safetensors could not be read: KeyError" in jobs.rows("broken")[0]["why"]


def test_an_unfinished_job_writes_its_description_anew(jobs: Jobs) -> None:
    jobs.interrupt("student").description.write_text("")
    (error,) = said(looked(jobs.root), "error")
    assert "1 broken" in error
    assert "delete" not in error


def test_jobs_whose_inputs_are_gone(jobs: Jobs) -> None:
    shutil.rmtree(jobs.folder("joint_teacher").folder)
    report = looked(jobs.root)
    assert said(report, "error") == []
    assert "1 finished" in said(report, "note")[0]
    assert "its own weights are whole" in said(report, "note")[0]
    jobs.interrupt("student")
    (row,) = jobs.rows("broken")
    assert row["why"] == "1 of 2 runs that it reads are gone"
    assert "makes what is missing" in said(looked(jobs.root), "error")[0]


def test_many_broken_jobs_are_one_finding(jobs: Jobs) -> None:
    for job in jobs.jobs:
        RunFolder(jobs.root.results / job.folder).best.unlink()
    (error,) = said(looked(jobs.root), "error")
    assert error.startswith("error: jobs: 6 broken (")
    assert error.count("results/") == 3


def test_another_version(jobs: Jobs) -> None:
    folder = jobs.folder("student")
    run = msgspec.convert(json.loads(folder.description.read_text()), RunRecord)
    for version, shown in (("9.9.1", "9.9.1"), (PATIENT, None)):
        write_json(folder.description, msgspec.structs.replace(run, version=version))
        rows = {row["job"]: row for row in jobs.rows("finished")}
        assert [row.get("version") for name, row in rows.items() if "Student" in name] == [shown]


def test_interrupted_writes(jobs: Jobs) -> None:
    for name, age in ((f".tmp_{PATIENT}.json", 7200), (".tmp_new.json", 0)):
        path = jobs.root.cases(A, "2d") / name
        path.write_text("x" * 1000)
        os.utime(path, (time.time() - age,) * 2)
    report = looked(jobs.root)
    assert report.facts["interrupted writes"]["files"] == 1  # the other is being written
    assert "files of interrupted writes: 1" in said(report, "note")[0]
    assert PATIENT not in report.text()


# --- names ----------------------------------------------------------------------------------------------------------


def make_dataset(folder: Path, **changes: Any) -> None:
    """A data set of one patient in name only: the files are empty."""
    for part, name in (("imagesTr", f"{PATIENT}_0000.nii.gz"), ("labelsTr", f"{PATIENT}.nii.gz")):
        (folder / part).mkdir(parents=True)
        (folder / part / name).touch()
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, PATIENT: 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**description, **changes}))


def test_names_are_not_said(planned: Root, jobs: Jobs) -> None:
    root, raw = jobs.root, jobs.root.raw
    make_dataset(raw / "Dataset001_Sound")
    make_dataset(raw / f"Dataset002_{PATIENT}")
    (raw / f"Dataset002_{PATIENT}" / "labelsTr" / f"{PATIENT}.nii.gz").unlink()
    make_dataset(raw / "Dataset003_Table")
    (raw / "Dataset003_Table" / "cases.csv").write_text(f"{PATIENT},{PATIENT}\n{PATIENT}_2,x\n")
    make_dataset(raw / "Dataset004_Labels", labels={"background": 0, PATIENT: PATIENT})
    make_dataset(raw / "Dataset005_Group", group=PATIENT)
    make_dataset(raw / "Dataset006_Entries", dataset={PATIENT: {"images": [f"{PATIENT}.nii.gz"], "label": PATIENT}})
    make_dataset(raw / "Dataset007_Json")
    (raw / "Dataset007_Json" / "dataset.json").write_text(f'{{"{PATIENT}": {PATIENT}')
    make_dataset(raw / PATIENT)
    plan = msgspec.convert(json.loads(root.plan(GROUP).read_text()), Plan)
    other = msgspec.structs.replace(plan.datasets[0], dataset=PATIENT)
    write_json(root.plan(GROUP), msgspec.structs.replace(plan, datasets=(*plan.datasets, other)))
    write_json(root.plan(PATIENT), {PATIENT: PATIENT})
    write_json(root.results / PATIENT / PATIENT / "fold_0" / "run.json", {PATIENT: PATIENT})
    student = jobs.interrupt("student")
    student.lock.write_text(PATIENT)
    student.best.write_text(PATIENT)
    write_json(jobs.folder("teacher").description, {PATIENT: PATIENT})
    jobs.folder("joint_teacher").finished.write_text(PATIENT)
    report, with_names = looked(root), looked(root, names=True)
    asked_for = f"Dataset002_{PATIENT}"
    assert asked_for in with_names.text()
    for text in (report.text(), json.dumps(report.content()), with_names.text().replace(asked_for, "")):
        assert "mueller" not in text.lower()
        assert "1950" not in text
    kinds = {row["data set"]: set(row) for row in report.facts["data sets"]}
    assert "label-missing" in kinds["Dataset002"]
    assert "cases-csv" in kinds["Dataset003"]
    assert "dataset-json-field" in kinds["Dataset004"] & kinds["Dataset005"]
    assert "dataset-json-syntax" in kinds["Dataset007"]
    assert kinds["(another name)"] == {"data set", "folder-name"}
    assert len(jobs.rows("broken")) == 4


@pytest.mark.parametrize(
    ("error", "text", "refused"),
    [
        (PermissionError(errno.EACCES, "no", "name"), "could not be read: PermissionError (Permission denied)", True),
        (OSError(errno.EIO, "no", "name"), "could not be read: OSError (Input/output error)", True),
        (FileNotFoundError(errno.ENOENT, "no", "name"), "could not be read: FileNotFoundError (No such file", False),
        (ValueError("a name"), "could not be read: ValueError", False),
        (Unreadable("missing, or not valid JSON"), "could not be read: missing, or not valid JSON", False),
    ],
)
def test_only_a_refusal_by_the_system_is_a_matter_of_rights(error: Exception, text: str, refused: bool) -> None:
    reason = unread(error)
    assert str(reason).startswith(text)
    assert "name" not in str(reason)  # of a file: it may hold a patient's
    assert reason.refused == refused
