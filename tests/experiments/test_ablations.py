"""Ablations by name: their columns, and what each is compared with."""

import logging
from collections.abc import Callable

import pytest

from mdkd_auto import pipeline
from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import ClassificationSettings, DetectionSettings, Settings, replace
from mdkd_auto.demo.phantoms import SCENES, write_detection_datasets, write_pictures
from mdkd_auto.experiments.ablations import ABLATIONS, CLASSIFIER_LOSSES, DETECTOR_LOSSES, find_ablation, variant_jobs
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.stages.job import Job

SOURCES = ("Dataset902_FlatFaint", "Dataset903_RaggedDark")
DETECTOR = Settings(device="cpu", detection=DetectionSettings(architecture="faster_rcnn_small"))
CLASSIFIER = Settings(device="cpu", classification=ClassificationSettings(architecture="unet"))
OF_DETECTION = [name for name, ablation in ABLATIONS.items() if ablation.is_for("detection")]
OF_CLASSIFICATION = [name for name, ablation in ABLATIONS.items() if ablation.is_for("classification")]


@pytest.fixture(scope="module")
def detection(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Three data sets, planned and preprocessed; nothing is trained."""
    root = Root(tmp_path_factory.mktemp("detection"))
    write_detection_datasets(root.raw)
    assert pipeline.plan_and_preprocess(root).problems == ()
    return root


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """The same of pictures with classes."""
    root = Root(tmp_path_factory.mktemp("classification"))
    write_pictures(root.raw, cases=12)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    return root


def made_experiment(root: Root, settings: Settings) -> Experiment:
    groups, _ = find_groups(root)
    ((name, datasets),) = groups.items()
    made = make_experiment(root, name, datasets, settings, "2d")
    assert made is not None
    return made


@pytest.fixture(scope="module")
def experiment(detection: Root) -> Experiment:
    return made_experiment(detection, DETECTOR)


@pytest.fixture(scope="module")
def classifiers(classification: Root) -> Experiment:
    return made_experiment(classification, CLASSIFIER)


def jobs_of(experiment: Experiment, name: str) -> dict[str, tuple[Experiment, list[Job]]]:
    """By column, of the first data set."""
    target, *sources = experiment.datasets
    variants = find_ablation(name).variants(tuple(sources))
    return {variant.column: variant_jobs(experiment, variant, target) for variant in variants}


@pytest.mark.parametrize("name", ABLATIONS)
def test_columns(name: str) -> None:
    ablation = find_ablation(name)
    variants = ablation.variants(SOURCES)
    columns = [variant.column for variant in variants]
    assert len(set(columns)) == len(columns)
    for variant in variants:
        against = ablation.against(variant)
        assert set(against) <= {*columns} - {variant.column}
        assert len(against) < 2 or (ablation.further and ablation.reading)
        assert replace(Settings(), **variant.changes)  # every change is a setting
        assert set(variant.sources or ()) <= set(SOURCES)


def test_a_student_of_few_labels_stands_against_a_model_of_as_few() -> None:
    variants = {variant.column: variant for variant in find_ablation("labels").variants(SOURCES)}
    students = [variant for variant in variants.values() if variant.stage == "student"]
    assert [student.changes["label_fraction"] for student in students] == [0.1, 0.25, 1.0]
    for student in students:
        (specific,) = student.against or ()
        assert variants[specific].changes == student.changes
        assert variants[specific].against == ()


def test_the_student_stands_against_each_control() -> None:
    def against(name: str, column: str) -> tuple[str, ...]:
        ablation = find_ablation(name)
        (variant,) = [variant for variant in ablation.variants(SOURCES) if variant.column == column]
        return ablation.against(variant)

    assert against("controls", "student") == (
        "data-set-specific",
        "self-distilled",
        "untrained sources",
        "fine-tuned from 902",
        "fine-tuned from 903",
    )
    assert against("controls", "self-distilled") == ("data-set-specific",)
    assert against("controls", "data-set-specific") == ()
    assert against("sources", "from all") == ("data-set-specific", "from 902", "from 903")
    assert against("sources", "from 902") == ("data-set-specific",)


def test_each_student_stands_against_its_own_network_alone(
    planned: Root, experiment_in: Callable[..., Experiment]
) -> None:
    """Also where students are smaller than teachers."""
    for settings in (Settings(device="cpu"), Settings(device="cpu", width=8, student_width=4)):
        columns = jobs_of(experiment_in(planned, settings), "architecture")
        variants = find_ablation("architecture").variants(SOURCES)
        students = [variant for variant in variants if variant.stage == "student"]
        assert [variant.column for variant in students] == ["UNet to UNet", "TResUNet to TResUNet", "TResUNet to UNet"]
        for variant in students:
            _, jobs = columns[variant.column]
            _, (alone,) = columns[(variant.against or ())[0]]
            assert (alone.stage, alone.architecture, alone.width) == ("teacher", jobs[-1].architecture, jobs[-1].width)
            assert alone.folder in jobs[-1].reads  # what its reliability is judged by


def test_an_unknown_name_lists_all() -> None:
    with pytest.raises(SettingsError, match=r"no ablation 'labls'[\s\S]*labels: Do other data sets help more"):
        find_ablation("labls")


def test_a_setting_that_detection_does_not_use_is_named_and_makes_no_other_job(
    detection: Root, experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    ((name, datasets),) = find_groups(detection)[0].items()
    given = replace(DETECTOR, fuse="encoder", attention_keys=0, keep_classes=True, task_loss="dice")
    with caplog.at_level(logging.WARNING):
        made = make_experiment(detection, name, datasets, given, "2d")
    assert made is not None
    (said,) = caplog.messages
    assert "CT_detection: fuse, attention_keys, task_loss, keep_classes are set, but without effect" in said
    target, *sources = experiment.datasets
    jobs = [JobMaker(one).permutation(target, tuple(sources)) for one in (made, experiment)]
    assert jobs[0] == jobs[1]


def test_what_is_within_changes() -> None:
    made = replace(Settings(), **{"detection.logits": 0.0, "classification.gamma": 2.0, "delta": 3.0})
    assert (made.detection.logits, made.classification.gamma, made.delta) == (0, 2, 3)
    assert made.detection.embeddings == Settings().detection.embeddings


def test_ablations_of_classification() -> None:
    assert OF_CLASSIFICATION == [
        "target-labels",
        "sources",
        "classifier-losses",
        "labels",
        "controls",
        "reliability",
        "early-late",
        "depth",
    ]


def test_ablations_of_detection() -> None:
    assert OF_DETECTION == [
        "target-labels",
        "sources",
        "detector-losses",
        "labels",
        "controls",
        "reliability",
        "turn-down",
    ]


def check_each_column_is_a_training_of_its_own(experiment: Experiment, name: str, architecture: str) -> None:
    columns = jobs_of(experiment, name)
    results = [jobs[-1].folder for _, jobs in columns.values()]
    assert len(set(results)) == len(results)
    for _, jobs in columns.values():
        made = [job.folder for job in jobs]
        assert all(set(job.reads) <= set(made[:place]) for place, job in enumerate(jobs))
        assert {job.architecture for job in jobs} == {architecture}


@pytest.mark.parametrize("name", OF_DETECTION)
def test_each_column_of_detection_is_a_training_of_its_own(experiment: Experiment, name: str) -> None:
    check_each_column_is_a_training_of_its_own(experiment, name, "faster_rcnn_small")


@pytest.mark.parametrize("name", OF_CLASSIFICATION)
def test_each_column_of_classification_is_a_training_of_its_own(classifiers: Experiment, name: str) -> None:
    check_each_column_is_a_training_of_its_own(classifiers, name, "unet")


def test_losses_of_a_detector_one_by_one(experiment: Experiment) -> None:
    columns = jobs_of(experiment, "detector-losses")
    assert list(columns) == ["all losses", *(f"without {name}" for name in DETECTOR_LOSSES), "without any"]
    joint = {job.folder for _, jobs in columns.values() for job in jobs if job.stage == "joint_teacher"}
    assert len(joint) == 1  # all learn from one teacher

    def weights(column: str) -> list[float]:
        own, jobs = columns[column]
        within = [own.settings.detection.attention, own.settings.detection.logits, own.settings.detection.embeddings]
        used = jobs[-1].identity["settings"]
        assert [used[name] for name in ("attention", "logits", "embeddings")] == within
        return [used["beta"], used["gamma"], used["delta"], *within]

    assert weights("all losses") == [1] * 6
    assert weights("without any") == [0] * 6
    for place, name in enumerate(DETECTOR_LOSSES):
        assert weights(f"without {name}") == [float(other != place) for other in range(6)]


def test_losses_of_a_classifier_one_by_one(classifiers: Experiment) -> None:
    columns = jobs_of(classifiers, "classifier-losses")
    weights = {}
    for column, (own, jobs) in columns.items():
        used = jobs[-1].identity["settings"]
        weights[column] = (used["logits"], used["beta"], used["gamma"], used["delta"])
        assert own.settings.classification.logits == used["logits"]  # as the task reads it
    assert weights == {
        "default losses": (0.5, 0, 0.5, 1),
        "without logits": (0, 0, 0.5, 1),
        "without feature": (0.5, 0, 0, 1),
        "without similarity": (0.5, 0, 0.5, 0),
        "with contrastive": (0.5, 0.5, 0.5, 1),
        "without any": (0, 0, 0, 0),
    }
    assert {f"without {name}" for name in CLASSIFIER_LOSSES} < set(columns)


def test_losses_of_segmentation_point_to_those_of_classifiers(classification: Root) -> None:
    with pytest.raises(
        SettingsError,
        match="'losses' is for segmentation, not for the groups here; for classification "
        "there are target-labels, sources, classifier-losses, ",
    ):
        pipeline.ablate(classification, CLASSIFIER, "losses", dry_run=True)


def test_a_dry_run_of_detection_lists_jobs(detection: Root, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert pipeline.ablate(detection, DETECTOR, "controls", targets=("931",), dry_run=True) == []
    assert f"student of {SCENES[0].name} from 932, 933" in caplog.text
    assert f"student of {SCENES[0].name} from itself alone" in caplog.text
    assert f"model of {SCENES[0].name} fine-tuned from 932" in caplog.text
    assert not detection.results.exists()
    with pytest.raises(SettingsError, match="ablation 'fusion' is for segmentation, not for the groups here"):
        pipeline.ablate(detection, DETECTOR, "fusion", dry_run=True)
