"""Tables and figures of what is trained already."""

from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.execution.run_folder import refuse_without_students
from mdkd_auto.execution.run_job import renew_scores
from mdkd_auto.experiments.replicates import all_permutations, jobs_of
from mdkd_auto.experiments.selection import experiments_of_groups
from mdkd_auto.report.figures import draw_figures
from mdkd_auto.report.tables import Table, permutation_table


def tables(
    root: Root,
    settings: Settings,
    group: str | None = None,
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
) -> list[Table]:
    """Write the tables of what is trained, without training. Raises TrainingError if no student is finished.

    Runs whose images or truths changed since they were scored are scored again.
    """
    experiments = experiments_of_groups(root, settings, group, configuration)
    trainings = [all_permutations(experiment, seeds, folds) for experiment in experiments]
    written = []
    for replicates in trainings:
        renew_scores(jobs_of(replicates))
        table = permutation_table(replicates, whole=True)
        if table is not None:
            draw_figures(replicates[0][0], table)
            written.append(table)
    if not written:
        refuse_without_students(root, configuration)
    return written
