"""What scoring costs: every network of a permutation against predicting the same images once, as mdkd_predict does.

    python benchmarks/scoring.py --raw $MDKD_REAL_DATA [--quick] [--record benchmarks/records/scoring.json]

Trains two permutations of width 8 for 200 updates (``--quick``: 20), one in 3-D and one in 2-D, with one thread. For
each run it gives CPU seconds of its training, of scoring it, and of predicting its validation and test images once more
from their files; and how often scoring read and resampled an image. Seconds are of one process, so that others on the
machine disturb them little.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from measuring import machine, table

from mdkd_auto import pipeline
from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.datasets import case_reading as case_arrays
from mdkd_auto.execution import run_job as running
from mdkd_auto.execution.evaluate_run import cases_of_part
from mdkd_auto.execution.run_folder import load_predictor
from mdkd_auto.execution.run_job import run_jobs
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.preprocessing import case as preprocessing
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.segmentation.training import predict_file
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.shared.scored_part import TEST, VALIDATION

UPDATES, QUICK_UPDATES, WIDTH = 200, 20, 8
ALLOWED = 1.2  # x predicting


class Setting(NamedTuple):
    """A permutation."""

    target: str
    source: str
    configuration: str
    patch_size: tuple[int, int, int]
    batch_size: int


SETTINGS = (
    Setting("Dataset001_BraTS2015", "Dataset002_StrokeT1", "3d_fullres", (64, 64, 64), 2),
    Setting("Dataset011_LungTumour", "Dataset012_Liver", "2d", (1, 128, 128), 4),
)


class Costs:
    """What is counted while a permutation is trained and scored."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.calls: Counter[str] = Counter()
        self.scoring = False

    def count(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted while a run is scored."""

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += self.scoring
            return function(*arguments, **options)

        return counted

    def time(self, name: str, stage_of: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its CPU seconds added to the row of its stage."""

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            self.scoring = name == "scoring_s"
            try:
                return function(*arguments, **options)
            finally:
                self.scoring = False
                row = self.rows.setdefault(stage_of(*arguments), {})
                row[name] = row.get(name, 0.0) + time.process_time() - started

        return timed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_UPDATES} updates instead of {UPDATES}")
    parser.add_argument("--record", type=Path, help="JSON file for the numbers")
    parser.add_argument("--only", nargs="+", help="numbers of targets, such as 011")
    parser.add_argument("--alone", action="store_true", help="the target's own model instead of all five networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    updates = QUICK_UPDATES if options.quick else UPDATES
    chosen = [one for one in SETTINGS if not options.only or one.target[7:10] in options.only]
    found = [measured(one, options.raw, updates, options.alone) for one in chosen]
    print(f"{machine()}; PyTorch {torch.__version__}, 1 thread; width {WIDTH}, {updates} updates\n")
    for one in found:
        print(text_of(one))
    if options.record is not None:
        write_json(
            options.record,
            {
                "machine": machine(),
                "torch": str(torch.__version__),
                "updates": updates,
                "width": WIDTH,
                "permutations": found,
            },
        )
    return 0 if all(one["scoring_against_predicting"] <= ALLOWED for one in found) else 1


def measured(setting: Setting, raw: Path, updates: int, alone: bool) -> dict[str, Any]:
    """Train and score a permutation in a root of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Root(Path(folder))
        for name in (setting.target, setting.source):
            shutil.copytree(raw / name, root.raw / name)
        pipeline.plan_and_preprocess(
            root, request=PlanRequest(configurations=(setting.configuration,), patch_size=setting.patch_size)
        )
        settings = Settings(
            device="cpu",
            width=WIDTH,
            epochs=1,
            iterations_per_epoch=updates,
            validation_batches=2,
            batch_size=setting.batch_size,
        )
        costs, jobs = Costs(), []
        with counted(costs, jobs):
            train(root, setting, settings, alone)
        for experiment, job in jobs:
            costs.rows[job.stage]["predicting_s"] = predicting_s(experiment, job, root.folder / "masks")
        judged = sum(len(cases_of_part(jobs[0][0], setting.target, part)) for part in (VALIDATION, TEST))
    rows = {stage: {name: round(value, 2) for name, value in row.items()} for stage, row in costs.rows.items()}
    total = {name: sum(row[name] for row in rows.values()) for name in ("training_s", "scoring_s", "predicting_s")}
    return {
        "target": setting.target,
        "configuration": setting.configuration,
        "patch_size": setting.patch_size,
        "images_of_target": judged,
        "networks": len(jobs),
        "by_stage": rows,
        **total,
        "calls": dict(costs.calls),
        "scoring_against_predicting": round(total["scoring_s"] / total["predicting_s"], 3),
    }


def train(root: Root, setting: Setting, settings: Settings, alone: bool) -> None:
    """The permutation, or its target's own model alone."""
    if not alone:
        pipeline.train(root, settings, setting.target, (setting.source,), configuration=setting.configuration)
        return
    groups, _ = find_groups(root)
    ((group, datasets),) = groups.items()
    experiment = make_experiment(root, group, datasets, settings, setting.configuration)
    assert experiment is not None
    run_jobs([(experiment, JobMaker(experiment).specific(setting.target))])


@contextmanager
def counted(costs: Costs, jobs: list[tuple[Experiment, Job]]) -> Iterator[None]:
    """Time training and scoring by stage, and count images read and resampled while scoring."""
    evaluate, fit = running.evaluate_run, running.fit

    def scores(experiment: Experiment, job: Job, options: PredictionOptions) -> None:
        jobs.append((experiment, job))
        costs.time("scoring_s", lambda *_: job.stage, evaluate)(experiment, job, options)

    def trains(*arguments: Any) -> Any:
        stage = next(iter(name for name in STAGE_WORDS if arguments[5].partition("] ")[2].startswith(name)))
        return costs.time("training_s", lambda *_: STAGE_WORDS[stage], fit)(*arguments)

    with (
        patch.object(running, "evaluate_run", scores),
        patch.object(running, "fit", trains),
        patch.object(case_arrays, "read_image", costs.count("read", case_arrays.read_image)),
        patch.object(preprocessing, "resample_image", costs.count("resampled", preprocessing.resample_image)),
        patch.object(pipeline, "draw_figures", lambda *_: None),
    ):
        yield


STAGE_WORDS = {
    "teacher": "teacher",
    "source teacher": "source_teacher",
    "joint teacher": "joint_teacher",
    "student": "student",
    "multi-head": "multi_head",
}  # titles of jobs -> stages


def predicting_s(experiment: Experiment, job: Job, masks: Path) -> float:
    """CPU seconds of loading a run and predicting each image that it is scored on once, from file to file."""
    started = time.process_time()
    several = job.stage == "multi_head"
    for dataset in job.datasets if several else (job.target,):
        options = PredictionOptions(torch.device("cpu"))
        predictor = load_predictor(experiment.root.results / job.folder, options, dataset if several else None)
        for part in (VALIDATION,) if job.stage == "source_teacher" else (VALIDATION, TEST):
            for case in cases_of_part(experiment, dataset, part):
                predict_file(predictor, case, masks)
    return time.process_time() - started


def text_of(found: dict[str, Any]) -> str:
    """A permutation's numbers as a table."""
    rows = [
        [
            stage,
            *(f"{row[name]:.1f}" for name in ("training_s", "scoring_s", "predicting_s")),
            f"{row['scoring_s'] / row['predicting_s']:.2f}",
        ]
        for stage, row in found["by_stage"].items()
    ]
    rows.append(
        [
            "all",
            *(f"{found[name]:.1f}" for name in ("training_s", "scoring_s", "predicting_s")),
            f"{found['scoring_against_predicting']:.2f}",
        ]
    )
    head = ["stage", "training, CPU s", "scoring, CPU s", "predicting once, CPU s", "scoring against predicting"]
    calls = ", ".join(f"{found['calls'].get(name, 0)} {name}" for name in ("read", "resampled"))
    return (
        f"{found['target']}, {found['configuration']}, patch {found['patch_size']}: {found['images_of_target']} "
        f"images of the target, {found['networks']} networks; images in scoring: {calls}\n\n"
        f"{table(head, rows)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
