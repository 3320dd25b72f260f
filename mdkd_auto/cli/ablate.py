"""mdkd_ablate NAME: variants of the method side by side."""

import argparse
import logging
from collections.abc import Sequence

from mdkd_auto.cli.common import add_training, parser, report_problems, root_from, run, settings_from, training_options

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("Train the runs that an ablation or a control still lacks, then write its table.")
    made.add_argument("name", nargs="?", help="controls, labels, sources, losses, ... (see --list)")
    made.add_argument("--list", dest="listed", action="store_true", help="list all ablations with their questions")
    made.add_argument("-g", "--group", help="CT, MRI, CXR (default: every group)")
    made.add_argument("-t", "--target", action="append", default=[], help="restrict to this target; repeatable")
    add_training(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    from mdkd_auto.experiments.ablations import find_ablation, list_ablations

    if arguments.listed:
        logger.info("%s", list_ablations())
        return 0
    find_ablation(arguments.name)  # fail before reading anything
    settings = settings_from(arguments)
    root = root_from(arguments)
    from mdkd_auto import pipeline

    targets = tuple(arguments.target)
    tables = pipeline.ablate(root, settings, arguments.name, arguments.group, targets, **training_options(arguments))
    return report_problems([one for table in tables for one in table.problems])
