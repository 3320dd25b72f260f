"""Jobs of permutations: how many, in which order, and what makes a job another one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import nibabel as nib
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from mdkd_auto import pipeline
from mdkd_auto.core.errors import SettingsError, TrainingError
from mdkd_auto.core.files import read_record, write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.settings import Settings, replace
from mdkd_auto.demo.phantoms import Look, write_datasets
from mdkd_auto.execution import evaluate_run as evaluate
from mdkd_auto.execution.estimate import stale_runs, state_of
from mdkd_auto.execution.run_folder import Finished, describe
from mdkd_auto.execution.run_job import make_objective, make_streams
from mdkd_auto.experiments import jobs as jobs_module
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker, is_finished
from mdkd_auto.experiments.replicates import having_fold
from mdkd_auto.experiments.titles import title_of
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preprocessing.case_store import record_path
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.task_parts import TASK_PARTS

Make = Callable[..., Experiment]
A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"
FINISHED = Finished(
    updates=6,
    seconds=1.0,
    seconds_per_update=0.1,
    best_validation_loss=1.0,
    best_validation_score=0.5,
    validation_share=0.1,
    parts=1,
)


def all_jobs(experiment: Experiment) -> list[Job]:
    return JobMaker(experiment).all_permutations(tuple(experiment.datasets))


def folders(experiment: Experiment) -> dict[str, str]:
    return {title_of(job): job.folder for job in all_jobs(experiment)}


def changed_stages(before: Experiment, after: Experiment) -> set[str]:
    """Stages with a job whose folder differs."""
    old = {job.folder for job in all_jobs(before)}
    return {job.stage for job in all_jobs(after) if job.folder not in old}


def finish(experiment: Experiment, job: Job) -> None:
    """What a finished run leaves, without its weights."""
    folder = RunFolder(experiment.root.results / job.folder)
    write_json(folder.description, describe(experiment, job))
    write_json(folder.finished, FINISHED)


@pytest.fixture(scope="module")
def experiment(planned: Root, experiment_in: Make) -> Experiment:
    return experiment_in(planned)


def test_three_data_sets(experiment: Experiment) -> None:
    jobs = all_jobs(experiment)
    assert Counter(job.stage for job in jobs) == {
        "teacher": 3,
        "source_teacher": 6,
        "joint_teacher": 3,
        "student": 3,
        "multi_head": 1,
    }
    assert len({job.folder for job in jobs}) == len(jobs)
    assert len({title_of(job) for job in jobs}) == len(jobs)
    done: set[str] = set()
    for job in jobs:
        assert set(job.reads) <= done
        done.add(job.folder)


def test_what_each_job_reads(experiment: Experiment) -> None:
    teacher, from_b, from_c, joint, student, multi_head = JobMaker(experiment).permutation(A, (B, C))
    assert [job.stage for job in (teacher, from_b, joint, student, multi_head)] == [
        "teacher",
        "source_teacher",
        "joint_teacher",
        "student",
        "multi_head",
    ]
    assert (from_b.target, from_b.sources, from_c.sources) == (A, (B,), (C,))
    assert teacher.reads == from_b.reads == multi_head.reads == ()
    assert joint.reads == (teacher.folder, from_b.folder, from_c.folder)
    assert student.reads == (joint.folder, teacher.folder)
    assert multi_head.datasets == (A, B, C)
    assert student.folder.startswith(f"{A}/Student-902-903__UNet-")
    assert student.folder.endswith("__2d/fold_0")


def test_a_student_of_another_network_is_judged_against_that_network(experiment: Experiment) -> None:
    """A joint teacher that is worse than the student's network alone has nothing to teach it."""
    settings = Settings(device="cpu", teacher_architecture="tresunet", student_architecture="unet", student_width=2)
    teacher, baseline, from_b, joint, student, _ = JobMaker(experiment._replace(settings=settings)).permutation(A, (B,))
    assert (teacher.architecture, baseline.architecture, baseline.width) == ("tresunet", "unet", 2)
    assert joint.reads == (teacher.folder, from_b.folder)
    assert student.reads == (joint.folder, baseline.folder)


def test_a_width_goes_to_the_networks_that_have_one(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(device="cpu", width=8, student_width=4, student_architecture="tresunet")
    narrow = TASK_PARTS["segmentation"]._replace(has_width=lambda name: name == "unet")
    monkeypatch.setattr(jobs_module, "TASK_PARTS", {"segmentation": narrow})
    maker = JobMaker(experiment._replace(settings=settings))
    assert (maker.teachers, maker.students) == (("unet", 8), ("tresunet", None))


def test_a_job_there_and_back(experiment: Experiment, tmp_path: Path) -> None:
    for job in all_jobs(experiment):
        write_json(tmp_path / "job.json", job)
        assert read_record(tmp_path / "job.json", Job) == job


def test_permutations_share_teachers(experiment: Experiment) -> None:
    maker = JobMaker(experiment)
    every = {job.folder for job in maker.all_permutations((A, B, C))}
    one = {job.stage: job.folder for job in maker.permutation(A, (B,))}
    assert {one["teacher"], one["source_teacher"]} <= every
    assert not {one["joint_teacher"], one["student"], one["multi_head"]} & every
    swapped = {job.stage: job.folder for job in maker.permutation(B, (A,))}
    assert swapped["multi_head"] == one["multi_head"]
    assert swapped["source_teacher"] != one["source_teacher"]


def test_one_data_set_alone(experiment: Experiment) -> None:
    (job,) = JobMaker(experiment).all_permutations((A,))
    assert job.stage == "teacher"


def b_with_one_fold(experiment: Experiment, fold: int) -> Experiment:
    few = msgspec.structs.replace(experiment.splits[B], folds=experiment.splits[B].folds[:1])
    return experiment._replace(splits={**experiment.splits, B: few}, settings=Settings(device="cpu", fold=fold))


def test_a_fold_that_a_data_set_lacks(experiment: Experiment) -> None:
    """It is no target there; as a source, or as what is fine-tuned from, it serves with its last fold."""
    first, second = (b_with_one_fold(experiment, fold) for fold in (0, 1))
    assert [one.has_fold(B) for one in (first, second)] == [True, False]
    assert {job.target for job in all_jobs(first)} == {A, B, C, "CT_segmentation"}
    jobs = all_jobs(second)
    assert {job.target for job in jobs} == {A, C, "CT_segmentation"}
    assert {job.fold for job in jobs} == {1}
    assert B in {source for job in jobs for source in job.sources}
    assert second.cases(B, "train") == first.cases(B, "train")
    own, continued = JobMaker(second).fine_tuned(A, B)
    assert (own.fold, continued.fold) == (0, 1)
    assert own.folder == JobMaker(first).specific(B).folder  # trained once
    with pytest.raises(SettingsError, match=rf"fold is 1; {B} has 1 fold, numbered from 0; give --fold 0 or less"):
        having_fold([second], B)
    assert having_fold([first, second], B) == [first]


def test_a_multi_head_model_is_scored_where_the_fold_is(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = b_with_one_fold(experiment, 1)
    asked: list[str | None] = []
    monkeypatch.setattr(evaluate, "_check_weights", lambda *_: None)
    monkeypatch.setattr(evaluate, "load_predictor", lambda folder, options, dataset: asked.append(dataset))
    scored = SimpleNamespace(prediction_hash=lambda *_: "", score_part=lambda *_: None)
    monkeypatch.setattr(evaluate, "TASK_SCORES", {"segmentation": scored})
    evaluate.evaluate_run(own, JobMaker(own).multi_head((A, B, C)), PredictionOptions(torch.device("cpu")))
    assert asked == [A, C]


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"gamma": 0.7}, {"student"}),
        ({"fuse": "bottleneck"}, {"joint_teacher", "student"}),
        ({"target_label_weight": 0.5}, {"source_teacher", "joint_teacher", "student"}),
        ({"target_label_weight": 0.0}, {"source_teacher", "joint_teacher", "student"}),
        ({"seed": 1}, {"teacher", "source_teacher", "joint_teacher", "student", "multi_head"}),
        ({"fold": 1}, {"teacher", "source_teacher", "joint_teacher", "student", "multi_head"}),
        ({"device": "auto"}, set()),
        ({"checkpoint_minutes": 1.0}, set()),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_setting_changes(
    planned: Root, experiment: Experiment, experiment_in: Make, changes: dict[str, Any], stages: set[str]
) -> None:
    changed = experiment_in(planned, Settings(**{"device": "cpu", **changes}))
    assert changed_stages(experiment, changed) == stages


def test_an_added_data_set_keeps_the_teachers(
    planned: Root, experiment: Experiment, experiment_in: Make, copied: Callable[[Root], Root], another_look: Look
) -> None:
    root = copied(planned)
    assert folders(experiment_in(root)) == folders(experiment)  # nothing depends on where the root lies
    for job in all_jobs(experiment):
        finish(experiment_in(root), job)
    write_datasets(root.raw, (another_look,), cases=4, seed=3)
    pipeline.plan_and_preprocess(root)
    larger = experiment_in(root)
    assert len(larger.datasets) == 4
    jobs = all_jobs(larger)
    kept = {job.folder for job in jobs} & {job.folder for job in all_jobs(experiment)}
    assert kept == {job.folder for job in all_jobs(experiment) if job.stage in ("teacher", "source_teacher")}
    assert {title_of(job) for job in jobs if is_finished(root, job)} == {
        title_of(job) for job in all_jobs(experiment) if job.folder in kept
    }

    stale = stale_runs(root, jobs)
    assert {entry.folder for entry in stale} == {
        job.folder for job in all_jobs(experiment) if job.stage in ("joint_teacher", "student", "multi_head")
    }
    assert all("Dataset904_Added" in " ".join(entry.changes) for entry in stale)


def test_a_changed_case_changes_what_saw_it(
    planned: Root, experiment: Experiment, experiment_in: Make, copied: Callable[[Root], Root], looks: tuple[Look, ...]
) -> None:
    root = copied(planned)
    case = experiment.splits[C].folds[0].train[0]
    path = root.raw / C / "imagesTr" / f"{case}_0000.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), path)  # type: ignore[attr-defined]
    for job in all_jobs(experiment):
        finish(experiment_in(root), job)
    pipeline.plan_and_preprocess(root)
    after = experiment_in(root)
    new = {title_of(job) for job in all_jobs(after)} - {
        title_of(job) for job in all_jobs(after) if job.folder in folders(experiment).values()
    }
    untouched = {f"teacher of {A} (2d, fold 0)", f"teacher of {B} (2d, fold 0)"} | {
        f"source teacher {source} -> {target} (2d, fold 0)" for source, target in (("902", A), ("901", B))
    }
    assert new == set(folders(experiment)) - untouched
    assert len(stale_runs(root, all_jobs(after))) == len(new)


def test_other_settings_configuration_or_fold_are_not_stale(
    planned: Root, experiment_in: Make, copied: Callable[[Root], Root]
) -> None:
    root = copied(planned)
    for settings in (Settings(epochs=3), Settings(keep_classes=True), Settings(fold=1), Settings()):
        other = experiment_in(root, settings, "3d_fullres" if settings == Settings() else "2d")
        for job in all_jobs(other):
            finish(other, job)
    jobs = all_jobs(experiment_in(root))
    assert stale_runs(root, jobs) == []
    assert {state_of(root, job) for job in jobs} == {"to do"}


# --- stored cases of another plan, or none --------------------------------------------------------------------------


def test_cases_preprocessed_for_another_plan_are_refused(
    planned: Root, experiment: Experiment, experiment_in: Make, copied: Callable[[Root], Root]
) -> None:
    root = copied(planned)
    pipeline.plan_and_preprocess(root, request=PlanRequest(spacing_mm=(8, 9, 9), replan=True), preprocess=False)
    with pytest.raises(TrainingError, match=rf"3 of 3 cases of {A}, such as \w+, .*; run mdkd_plan_and_preprocess"):
        all_jobs(experiment_in(root))
    pipeline.plan_and_preprocess(root, request=PlanRequest(spacing_mm=(8, 9, 9), configurations=("2d",)))
    assert not set(folders(experiment).values()) & set(folders(experiment_in(root)).values())


def test_classes_changed_since_preprocessing_are_refused(experiment: Experiment) -> None:
    other = msgspec.structs.replace(experiment.datasets[B], labels={"lesion": (2,)})
    changed = experiment._replace(datasets={**experiment.datasets, B: other})
    JobMaker(changed).specific(A)
    with pytest.raises(TrainingError, match=rf"cases of {B}"):
        JobMaker(changed).permutation(A, (B,))


def test_cases_that_are_not_preprocessed_are_said(
    planned: Root,
    experiment: Experiment,
    experiment_in: Make,
    copied: Callable[[Root], Root],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = copied(planned)
    first, *_ = experiment.cases(A, "train")
    experiment_in(root)
    assert not caplog.records
    record_path(root.cases(A, "2d"), first).unlink()
    assert first not in experiment_in(root).cases(A, "train")
    assert f"{A} 2d: 1 cases are not preprocessed and left out: {first}." in caplog.text


# --- pretrained weights ---------------------------------------------------------------------------------------------


def test_pretrained_weights_are_part_of_what_a_job_is(planned: Root, experiment_in: Make, tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    settings = Settings(device="cpu", teacher_architecture="tresunet", pretrained=str(path))
    with pytest.raises(SettingsError, match=r"resnet\.safetensors does not exist"):
        JobMaker(experiment_in(planned, settings))
    keys = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        keys.add(JobMaker(experiment_in(planned, settings)).specific(A).identity["key"])
    keys.add(JobMaker(experiment_in(planned, replace(settings, pretrained=None))).specific(A).identity["key"])
    assert len(keys) == 3


def test_a_new_tresunet_begins_with_the_weights_of_the_file(planned: Root, experiment_in: Make, tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    torch.manual_seed(3)
    library = timm.create_model("resnet50_gn", features_only=True, out_indices=(0, 1, 2, 3))
    save_file(library.state_dict(), path)
    settings = Settings(device="cpu", teacher_architecture="tresunet", pretrained=str(path))
    experiment = experiment_in(planned, settings)
    objective: Any = make_objective(experiment, describe(experiment, JobMaker(experiment).specific(A)))
    first = objective.model.encoder.stages[0][0].weight
    torch.testing.assert_close(first, library.state_dict()["conv1.weight"].sum(1, keepdim=True))


# --- few labels -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_patients(tmp_path_factory: pytest.TempPathFactory, looks: tuple[Look, ...]) -> Root:
    """Two data sets, the first of 24 cases of 12 patients."""
    root = Root(tmp_path_factory.mktemp("patients"))
    write_datasets(root.raw, looks[:1], cases=24)
    write_datasets(root.raw, looks[1:2], cases=4)
    names = sorted(path.name.removesuffix("_0000.nii.gz") for path in (root.raw / A / "imagesTr").iterdir())
    rows = [f"{name},p{number // 2}" for number, name in enumerate(names)]
    (root.raw / A / "cases.csv").write_text("\n".join(["case_id,patient_id", *rows]) + "\n")
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(configurations=("2d",))).problems == ()
    return root


def test_few_labels_are_whole_patients_and_part_of_more_labels(with_patients: Root, experiment_in: Make) -> None:
    def chosen(share: float, seed: int = 0) -> set[str]:
        experiment = experiment_in(with_patients, Settings(device="cpu", seed=seed))
        return set(experiment.cases(A, "train", share))

    experiment = experiment_in(with_patients)
    patient_of = {case.case_id: case.patient_id for case in experiment.datasets[A].cases}
    every = chosen(1.0)
    patients = {patient_of[case] for case in every}
    for share in (0.01, 0.25, 0.5):
        some = {patient_of[case] for case in chosen(share)}
        assert len(some) == max(1, round(share * len(patients)))
        assert chosen(share) == {case for case in every if patient_of[case] in some}
    assert chosen(0.01) < chosen(0.25) < chosen(0.5) < every
    assert len({frozenset(chosen(0.25, seed)) for seed in range(5)}) > 1
    assert experiment.cases(A, "val", 0.25) == experiment.cases(A, "val")


def test_few_labels_concern_the_target_alone(with_patients: Root, experiment_in: Make) -> None:
    def jobs_at(share: float) -> dict[str, Job]:
        maker = JobMaker(experiment_in(with_patients, Settings(device="cpu", label_fraction=share)))
        jobs = [*maker.permutation(A, (B,)), *maker.fine_tuned(A, B)]
        return {title_of(job): job for job in jobs}

    whole, few = jobs_at(1.0), jobs_at(0.25)
    assert {title for title in whole if "multi-head" in title} == set(whole) - set(few)
    same = {title for title in few if few[title].folder == whole[title].folder}
    assert same == {f"teacher of {B} (2d, fold 0)"}  # which a fine-tuned model begins with
    experiment = experiment_in(with_patients, Settings(device="cpu", label_fraction=0.25))
    source_teacher = few[f"source teacher 902 -> {A} (2d, fold 0)"]
    streams = make_streams(experiment, describe(experiment, source_teacher))
    drawn = {name: {case.case_id for case in sampler.cases} for name, sampler in streams.training.items()}
    assert drawn == {A: set(experiment.cases(A, "train", 0.25)), B: set(experiment.cases(B, "train"))}


def test_a_fold_without_cases_is_not_blamed_on_preprocessing(planned: Root, experiment_in: Callable[..., Any]) -> None:
    experiment = experiment_in(planned)
    splits = experiment.splits[A]
    first = msgspec.structs.replace(splits.folds[0], val=())
    emptied = msgspec.structs.replace(splits, folds=(first, *splits.folds[1:]))
    experiment = experiment._replace(splits={**experiment.splits, A: emptied})
    with pytest.raises(TrainingError, match=rf"{A}.*splits\.json: fold 0 holds no case for val; choose another fold"):
        experiment.cases(A, "val")
    assert experiment.cases(A, "train")


@pytest.mark.parametrize(("part", "label_too"), [("train", True), ("train", False), ("val", True), ("val", False)])
def test_a_case_of_the_splits_that_is_gone_is_named(
    planned: Root, copied: Callable[[Root], Root], experiment_in: Make, part: Literal["train", "val"], label_too: bool
) -> None:
    """Its preprocessed arrays are still there; nothing says whether they are to be trained or validated on."""
    root = copied(planned)
    before = experiment_in(root)
    name = next(iter(before.datasets))
    case = before.cases(name, part)[0]
    files = [*(root.raw / name / "imagesTr").glob(f"{case}_*"), *(root.raw / name / "labelsTr").glob(f"{case}.*")]
    for file in files if label_too else files[:1]:
        file.unlink()
    with pytest.raises(TrainingError, match=f"cases for {part} can no longer be read; put .*\n.*{case}: "):
        experiment_in(root).cases(name, part)
