"""Detectors of both families learn eight images by heart, through the project's own training and evaluation."""

from pathlib import Path
from typing import Any

import pytest

from mdkd_auto import pipeline
from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Fold, Splits
from mdkd_auto.core.settings import Settings
from mdkd_auto.demo.phantoms import SCENES, write_detection_datasets
from mdkd_auto.execution.run_job import run_jobs
from mdkd_auto.experiments.experiment import make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups

LOOK = SCENES[0]._replace(size=(64, 64), radius=(9.0, 12.0))
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "validation_batches": 1,
    "device": "cpu",
    "augment": False,
    "early_stopping_epochs": 100,
    "plateau_epochs": 100,
}


@pytest.fixture(scope="module")
def learned_by_heart(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Root:
    """Eight images, of which two show nothing."""
    root = Root(tmp_path_factory.mktemp("eight"))
    write_detection_datasets(root.raw, (LOOK,), cases=8)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64, test_fraction=0.0)).problems == ()
    return root


@pytest.mark.parametrize(
    ("architecture", "batch_size", "learning_rate", "updates"),
    [
        ("faster_rcnn_small", 4, 1e-3, 25),
        ("rfdetr_tiny", 8, 2e-3, 80),
    ],
)
def test_eight_images_are_learnt(
    learned_by_heart: Root, architecture: str, batch_size: int, learning_rate: float, updates: int
) -> None:
    """Within four times the updates that usually suffice: how many do depends on the processor's rounding."""
    root = learned_by_heart
    groups, _ = find_groups(root)
    cases = tuple(sorted(case.case_id for case in groups["CT_detection"][0].cases))
    by_heart = Splits(test=(), folds=(Fold(train=cases, val=cases),))  # judged on what it was trained on
    for budget in (updates, 2 * updates, 4 * updates):
        settings = Settings(
            **SETTINGS,
            teacher_architecture=architecture,
            batch_size=batch_size,
            learning_rate=learning_rate,
            iterations_per_epoch=budget,
        )
        experiment = make_experiment(root, "CT_detection", groups["CT_detection"], settings, "2d")
        assert experiment is not None
        experiment = experiment._replace(splits={LOOK.name: by_heart})
        job = JobMaker(experiment).specific(LOOK.name)
        run_jobs([(experiment, job)])
        run: Path = root.results / job.folder
        summary = read_json(run / "validation" / "summary.json")
        assert len(summary["answers"]) == 8
        scores = {name: one["mean"] for name, one in summary["scores"]["metrics"].items()}
        learnt = {name: scores[name] for name in ("map_50", "f1", "froc")}
        learnt["one batch"] = read_json(run / "finished.json")["best_validation_score"]
        if min(learnt.values()) > 0.7:
            return
    pytest.fail(f"not learnt in {SETTINGS['epochs'] * budget} updates: {learnt}")
