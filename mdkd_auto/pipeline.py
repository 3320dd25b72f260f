"""Every command as a sequence of named calls. Read this first.

verify                 raw/ -> problems of the data sets (preparation.py)
plan_and_preprocess    raw/ -> fingerprints -> group plan -> splits -> preprocessed cases (preparation.py)
train_all_permutations plan -> teachers -> joint teachers -> students, baselines -> table and figures
train                  the same for one target and chosen sources
ablate                 variants of the method side by side, by name
tables                 finished runs -> table and figures (report/tabulate.py)
predict                images + a run folder -> masks in the images' own geometry, classes, or boxes (prediction.py)
evaluate               masks, classes or boxes + a raw data set -> scores (execution/score_folder.py)
"""

from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.execution.estimate import log_dry_run
from mdkd_auto.execution.evaluate_run import check_scored
from mdkd_auto.execution.notices import log_notices, warn_of_pretrained
from mdkd_auto.execution.run_folder import find_student
from mdkd_auto.execution.run_job import run_jobs
from mdkd_auto.execution.score_folder import evaluate
from mdkd_auto.experiments import selection
from mdkd_auto.experiments.replicates import Replicate, all_permutations, jobs_of, one_permutation
from mdkd_auto.prediction import predict
from mdkd_auto.preparation import plan_and_preprocess, verify
from mdkd_auto.report.ablation import Study, ablation_study, ablation_table
from mdkd_auto.report.figures import ablation_figures, draw_ablation, draw_figures, permutation_figures
from mdkd_auto.report.tables import Table, log_table, permutation_table
from mdkd_auto.report.tabulate import tables

__all__ = ["ablate", "evaluate", "find_student", "plan_and_preprocess", "predict", "tables", "train"]
__all__ += ["train_all_permutations", "verify"]


def train_all_permutations(
    root: Root,
    settings: Settings,
    group: str | None = None,
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
    dry_run: bool = False,
) -> list[Table]:
    """Train every target with all the others of its group as sources (of every group without ``group``).

    All of it is trained for each of ``seeds`` (counted from ``settings.seed``) and ``folds`` (from 0).
    """
    experiments = selection.experiments_of_groups(root, settings, group, configuration)
    trainings = [all_permutations(experiment, seeds, folds) for experiment in experiments]
    written = [_train(replicates, dry_run, whole=True) for replicates in trainings]
    return [table for table in written if table is not None]


def train(
    root: Root,
    settings: Settings,
    target: str,
    sources: tuple[str, ...] = (),
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
    dry_run: bool = False,
) -> Table | None:
    """Train one permutation: ``target`` with ``sources`` (names or numbers; default all the others of its group)."""
    permutation = selection.choose_permutation(root, settings, target, sources, configuration)
    return _train(one_permutation(permutation, seeds, folds), dry_run)


def _train(replicates: list[Replicate], dry_run: bool, whole: bool = False) -> Table | None:
    experiment, jobs = replicates[0][0], jobs_of(replicates)
    log_notices(replicates)
    if dry_run:
        log_dry_run(experiment, jobs, permutation_figures(experiment, jobs))
        return None
    run_jobs(jobs)  # teachers -> source teachers -> joint teachers -> students, and baselines
    table = permutation_table(replicates, whole)
    if table is None:
        check_scored(jobs)
        return None
    log_table(table)
    draw_figures(experiment, table)
    return table


def ablate(
    root: Root,
    settings: Settings,
    name: str,
    group: str | None = None,
    targets: tuple[str, ...] = (),
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
    dry_run: bool = False,
) -> list[Table]:
    """Train what an ablation still needs, for every target of a group (or those named), and write its tables."""
    experiments = selection.experiments_for_ablation(name, root, settings, group, configuration)
    chosen = selection.choose_targets(root, experiments, targets)
    studies = [ablation_study(name, experiment, chosen, seeds, folds) for experiment in experiments]
    written = [_ablate(study, dry_run) for study in studies]
    return [table for table in written if table is not None]


def _ablate(study: Study, dry_run: bool) -> Table | None:
    warn_of_pretrained(study.jobs)
    if dry_run:
        log_dry_run(study.experiment, study.jobs, ablation_figures(study))
        return None
    run_jobs(study.jobs)
    table = ablation_table(study)
    if table is not None:
        log_table(table)
        draw_ablation(study.name, study.experiment, table)
    return table
