"""What a stage begins with: its networks, from what it reads and what stands in the place of that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import pytest
import torch

from mdkd_auto import pipeline
from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.records import Case
from mdkd_auto.core.settings import ClassificationSettings, Settings, replace
from mdkd_auto.demo.phantoms import PICTURES, write_pictures
from mdkd_auto.execution import run_job as run_module
from mdkd_auto.execution.notices import warn_of_pretrained
from mdkd_auto.execution.run_folder import build_model, describe
from mdkd_auto.execution.run_job import make_objective, make_task, run_jobs
from mdkd_auto.experiments import jobs as jobs_module
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.experiments.jobs import JobMaker, check_unchanged
from mdkd_auto.metrics.summary import score_masks
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.preprocessing.case_store import read_case_record, record_path
from mdkd_auto.stages.job import Job, Network
from mdkd_auto.tasks.segmentation.scoring import CaseScores, summary_of, write_summary
from mdkd_auto.training.checkpoints import save_weights
from mdkd_auto.training.loop import LATEST

A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"
OF_ALL = score_masks(np.ones((4, 4), dtype=bool), np.ones((4, 4), dtype=bool), (1.0, 1.0))
FIRST, SECOND = (look.name for look in PICTURES[:2])
OWN = ClassificationSettings(architecture="unet", architecture_of={"922": "efficientnet_b0"}, joint_channels=16)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def root(planned: Root, copied: Callable[[Root], Root]) -> Root:
    return copied(planned)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(tmp_path_factory.mktemp("pictures"))
    write_pictures(root.raw, PICTURES[:2], cases=12)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    return root


def classifiers(root: Root, **changes: Any) -> Experiment:
    groups, _ = find_groups(root)
    settings = Settings(device="cpu", **{"width": 4, "classification": OWN, **changes})
    made = make_experiment(root, "CXR_classification", groups["CXR_classification"], settings, "2d")
    assert made is not None
    return made


def train(experiment: Experiment, job: Job) -> Model:
    """Leave what a run leaves for those that read it; its weights are random, and not those that it began with."""
    run = describe(experiment, job)
    model = build_model(run, make_task(run))
    assert isinstance(model, Model)
    for parameter in model.parameters():
        parameter.data.add_(torch.rand_like(parameter))
    folder = RunFolder(experiment.root.results / job.folder)
    write_json(folder.description, run)
    save_weights(folder.best, model)
    return model


def leave_score(experiment: Experiment, job: Job, dice: float) -> None:
    """The DSC of its one validation case."""
    of_case = CaseScores(case_id="case", metrics={"foreground": msgspec.structs.replace(OF_ALL, dice=dice)})
    case = Case(case_id="case", images=("case.nii.gz",), patient_id="case")
    summary = summary_of([of_case], [case], job.target, "validation", "mm", {})
    write_summary(experiment.root.results / job.folder / "validation", summary)


def objective_of(experiment: Experiment, job: Job) -> Any:
    return make_objective(experiment, describe(experiment, job))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks of one kind have the same weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_fine_tuned_model_begins_with_the_sources_weights(root: Root, experiment_in: Callable[..., Any]) -> None:
    experiment = experiment_in(root, Settings(device="cpu", width=2))
    first, second = JobMaker(experiment).fine_tuned(A, B)
    assert (first.target, second.target, second.reads) == (B, A, (first.folder,))
    source = train(experiment, first)
    assert same(objective_of(experiment, second).model, source)


def test_a_fine_tuned_classifier_takes_the_classes_by_their_names(
    pictures: Root, copied: Callable[[Root], Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their order; a class that the source lacks stays as it was initialised."""
    for check in ("_check_plan", "_check_files"):  # the classes get other names below
        monkeypatch.setattr(jobs_module, check, lambda *_: None)
    experiment = classifiers(copied(pictures))
    names = {FIRST: ("long", "other", "round"), SECOND: ("round", "cross", "long")}
    for dataset, some in names.items():
        labels = {name: (value,) for value, name in enumerate(some)}
        experiment.datasets[dataset] = msgspec.structs.replace(experiment.datasets[dataset], labels=labels)
    first, second = JobMaker(experiment).fine_tuned(FIRST, SECOND)
    run = describe(experiment, second)
    source: Any = train(experiment, first)
    fresh: Any = build_model(run, make_task(run))
    continued: Any = make_objective(experiment, run).model
    head, theirs, ours = continued.head.linear, source.head.linear, fresh.head.linear
    for place, (layer, row) in enumerate(((theirs, 2), (ours, 1), (theirs, 0))):
        torch.testing.assert_close(head.weight[place], layer.weight[row])
        torch.testing.assert_close(head.bias[place], layer.bias[row])
    assert same(continued.encoder, source.encoder)


def test_a_student_knows_what_it_is_judged_by(root: Root, experiment_in: Callable[..., Any]) -> None:
    """The validation scores of its network trained alone, one an epoch, and how much the joint teacher is worth."""
    experiment = experiment_in(root, Settings(device="cpu", width=2, turn_down=True))
    teacher, _, joint, student = JobMaker(experiment).distilled(A, (B,))
    train(experiment, teacher)
    train(experiment, joint)
    leave_score(experiment, teacher, 0.8)
    leave_score(experiment, joint, 0.4)
    log = experiment.root.results / teacher.folder / "progress.csv"
    log.write_text("epoch,validation_loss,validation_score\n1,0.9,0.25\n2,0.8,0.5\n")
    objective = objective_of(experiment, student)
    assert objective.baseline_scores == (0.25, 0.5)
    assert objective.reliability == pytest.approx(0.25)
    assert objective.settings.turn_down
    plain = experiment._replace(settings=replace(experiment.settings, turn_down=False))
    assert objective_of(plain, student).baseline_scores == ()


def test_a_joint_teacher_weighs_its_sources(root: Root, experiment_in: Callable[..., Any]) -> None:
    experiment = experiment_in(root, Settings(device="cpu", width=2))
    *readable, joint, _ = JobMaker(experiment).distilled(A, (B, C))
    for job, score in zip(readable, (0.8, 0.4, 0.9), strict=True):
        train(experiment, job)
        leave_score(experiment, job, score)
    assert objective_of(experiment, joint).model.encoder.weights.tolist() == pytest.approx([1.0, 0.25, 1.0])


# --- pretrained weights ---------------------------------------------------------------------------------------------


def test_pretrained_weights_that_no_network_takes_are_named(
    root: Root, experiment_in: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    settings = Settings(device="cpu", width=2, pretrained=str(path))
    pipeline.train(root, settings, A, (B,), dry_run=True)
    assert caplog.text.count("CT_segmentation: pretrained is set, but without effect: every network here is") == 1
    caplog.clear()
    some = replace(settings, width=None, teacher_architecture="tresunet", student_architecture="unet")
    for one in (experiment_in(root, some), experiment_in(root, replace(settings, pretrained=None))):
        warn_of_pretrained([(one, job) for job in JobMaker(one).permutation(A, (B,))])
    assert "pretrained" not in caplog.text


# --- cases that change while a queue runs ---------------------------------------------------------------------------


def replace_case(experiment: Experiment) -> None:
    """As preprocessing does after a change of the raw files."""
    folder = experiment.root.cases(A, "2d")
    record = read_case_record(folder, experiment.cases(A, "train")[0])
    write_json(record_path(folder, record.case_id), msgspec.structs.replace(record, key="another"))


def test_a_job_does_not_begin_with_cases_not_its_own(root: Root, experiment_in: Callable[..., Any]) -> None:
    settings = Settings(device="cpu", width=2, epochs=1, iterations_per_epoch=1, batch_size=2)
    experiment = experiment_in(root, settings)
    first = JobMaker(experiment).specific(A)
    replace_case(experiment)
    with pytest.raises(TrainingError, match=rf"{A}.*: the stored cases changed .*; run it again"):
        run_jobs([(experiment, first)])
    assert not RunFolder(root.results / first.folder).description.exists()
    check_unchanged(experiment, JobMaker(experiment).specific(B))


def test_no_job_is_made_of_cases_whose_files_changed_since(root: Root, experiment_in: Callable[..., Any]) -> None:
    """A label to validate on that is corrected but not preprocessed again would judge, but not teach."""
    experiment = experiment_in(root, Settings(device="cpu", width=2))
    (name,) = experiment.cases(A, "val")
    JobMaker(experiment).specific(A)
    label = root.raw / A / "labelsTr" / f"{name}.nii.gz"
    mask = nib.load(label)
    nib.save(nib.Nifti1Image(1 - np.asarray(mask.dataobj), mask.affine), label)
    with pytest.raises(TrainingError, match=rf"{A}: 1 of 3 cases .* such as {name}, changed since they were pre"):
        JobMaker(experiment).specific(A)
    JobMaker(experiment).specific(B)
    assert pipeline.plan_and_preprocess(root).problems == ()
    JobMaker(experiment_in(root, Settings(device="cpu", width=2))).specific(A)


def test_a_job_does_not_end_with_other_cases_than_it_began_with(
    root: Root, experiment_in: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no checkpoint that a later call would go on from."""
    settings = Settings(device="cpu", width=2, epochs=1, iterations_per_epoch=1, batch_size=2)
    experiment = experiment_in(root, settings)
    job = JobMaker(experiment).specific(A)
    folder = root.results / job.folder

    def scored(*_: Any) -> None:
        assert (folder / LATEST).is_file()
        replace_case(experiment)

    monkeypatch.setattr(run_module, "evaluate_run", scored)
    with pytest.raises(TrainingError, match="the stored cases changed"):
        run_jobs([(experiment, job)])
    assert not RunFolder(folder).finished.exists()
    assert not (folder / LATEST).exists()


# --- untrained sources ----------------------------------------------------------------------------------------------


def test_untrained_sources_are_random_networks_each_of_its_own(root: Root, experiment_in: Callable[..., Any]) -> None:
    """None is what the target's teacher began with; the fusion begins as it does with trained ones."""

    def encoders(seed: int) -> list[Encoder]:
        settings = Settings(device="cpu", width=2, untrained_sources=True, seed=seed)
        experiment = experiment_in(root, settings)
        teacher, joint, _ = JobMaker(experiment).distilled(A, (B, C))
        assert (teacher.stage, joint.reads) == ("teacher", (teacher.folder,))
        trained = train(experiment, teacher)
        run = describe(experiment, teacher)
        fresh = build_model(run, make_task(run))
        own, *sources = objective_of(experiment, joint).model.encoder.teachers
        assert same(own, trained.encoder)
        assert len(sources) == 2
        assert not any(same(source, fresh.encoder) or same(source, own) for source in sources)
        return sources

    first, again, other = encoders(0), encoders(0), encoders(1)
    assert not same(*first)
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    assert not any(same(*pair) for pair in zip(first, other, strict=True))


def test_trained_sources_are_read(root: Root, experiment_in: Callable[..., Any]) -> None:
    experiment = experiment_in(root, Settings(device="cpu", width=2, reliability=False))
    *readable, joint, _ = JobMaker(experiment).distilled(A, (B, C))
    trained = [train(experiment, job).encoder for job in readable]
    read = objective_of(experiment, joint).model.encoder.teachers
    assert all(same(*pair) for pair in zip(read, trained, strict=True))


@pytest.mark.parametrize(("target", "source"), [(FIRST, SECOND), (SECOND, FIRST)])
def test_untrained_sources_of_another_kind(
    pictures: Root, copied: Callable[[Root], Root], target: str, source: str
) -> None:
    """The joint teacher that is trained is the one that is built to be read."""
    experiment = classifiers(copied(pictures), untrained_sources=True)
    teacher, *_, joint, _ = JobMaker(experiment).distilled(target, (source,))
    networks = {FIRST: Network("unet", 4), SECOND: Network("efficientnet_b0", None)}
    assert joint.teachers == (networks[target], networks[source])
    assert joint.identity["teachers"] == [list(network) for network in joint.teachers]
    train(experiment, teacher)
    run = describe(experiment, joint)
    trained = make_objective(experiment, run).model
    build_model(run, make_task(run)).load_state_dict(trained.state_dict())


def test_only_what_has_other_networks_or_untrained_ones_names_them(pictures: Root) -> None:
    """So that a joint teacher of one kind keeps its key."""
    experiment = classifiers(pictures, classification=ClassificationSettings(architecture="unet", joint_channels=16))
    for untrained, sources in ((False, (SECOND,)), (True, ())):
        own = classifiers(pictures, classification=experiment.settings.classification, untrained_sources=untrained)
        (joint,) = (job for job in JobMaker(own).distilled(FIRST, sources) if job.stage == "joint_teacher")
        assert joint.teachers == ()
        assert "teachers" not in joint.identity
