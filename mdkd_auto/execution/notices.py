"""What a training command logs before it starts: runs that no longer match, and settings without effect."""

import logging
from collections.abc import Sequence

from mdkd_auto.execution.estimate import stale_runs
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.replicates import Replicate, jobs_of
from mdkd_auto.networks.weights.load import takes_pretrained
from mdkd_auto.stages.job import Job

logger = logging.getLogger(__name__)


def log_notices(replicates: Sequence[Replicate]) -> None:
    """Log stale runs, a group of a single data set, and pretrained weights that no network uses."""
    for experiment, jobs in replicates:
        for stale in stale_runs(experiment.root, jobs):
            logger.info("no longer matches, kept but not used: %s\n    %s", stale.folder, "\n    ".join(stale.changes))
    experiment = replicates[0][0]
    if len(experiment.datasets) < 2:
        logger.warning(
            "%s: one data set has nothing to learn from; only its own model is trained", experiment.plan.group
        )
    warn_of_pretrained(jobs_of(replicates))


def warn_of_pretrained(jobs: Sequence[tuple[Experiment, Job]]) -> None:
    """Warn if pretrained weights are given and no network of the jobs starts from them."""
    given = any(experiment.settings.pretrained is not None for experiment, _ in jobs)
    if given and not any(takes_pretrained(job.architecture) for _, job in jobs):
        logger.warning(
            "%s: pretrained is set, but without effect: every network here is the plan's UNet, which begins "
            "with random weights",
            jobs[0][1].group,
        )
