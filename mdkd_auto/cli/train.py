"""mdkd_train TARGET --from SOURCE ...: one permutation."""

import argparse
from collections.abc import Sequence

from mdkd_auto.cli.common import add_replicates, add_settings, parser, root_from, run, settings_from


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("Train one target with chosen sources: teachers, joint teacher, student and baselines.")
    made.add_argument("target", help="data set: name or number, such as 011")
    made.add_argument("--from", dest="sources", nargs="+", default=[], metavar="SOURCE",
                      help="source data sets (default: all others of the group)")  # fmt: skip
    made.add_argument("--dry-run", action="store_true", help="print the jobs, what is done, and an estimate")
    add_replicates(made)
    add_settings(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    root = root_from(arguments)
    from mdkd_auto import pipeline

    pipeline.train(
        root, settings, arguments.target, tuple(arguments.sources), configuration=arguments.configuration,
        seeds=arguments.seeds, folds=arguments.folds, dry_run=arguments.dry_run,
    )  # fmt: skip
    return 0
