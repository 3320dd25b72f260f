"""mdkd_train_all_permutations: every data set of a group as target, all others as sources."""

import argparse
from collections.abc import Sequence

from mdkd_auto.cli.common import add_training, parser, report_problems, root_from, run, settings_from, training_options


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "For every target of a group, train teachers, joint teacher, student and baselines; then write the table.\n"
        "Finished jobs are skipped; an interrupted job resumes from its last checkpoint."
    )
    made.add_argument("-g", "--group", help="CT, MRI, CXR (default: every group)")
    add_training(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    root = root_from(arguments)
    from mdkd_auto import pipeline

    tables = pipeline.train_all_permutations(root, settings, arguments.group, **training_options(arguments))
    return report_problems([one for table in tables for one in table.problems])
