"""mdkd_train TARGET --from SOURCE ...: one permutation."""

import argparse
from collections.abc import Sequence

from mdkd_auto.cli.common import add_training, parser, report_problems, root_from, run, settings_from, training_options


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("Train one target with the chosen sources: teachers, joint teacher, student and baselines.")
    made.add_argument("target", help="data set: name or number, such as 011")
    made.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="source data sets (default: all others of the group)",
    )
    add_training(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    root = root_from(arguments)
    from mdkd_auto import pipeline

    table = pipeline.train(root, settings, arguments.target, tuple(arguments.sources), **training_options(arguments))
    return report_problems(table.problems if table is not None else ())
