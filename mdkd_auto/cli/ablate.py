"""mdkd_ablate NAME: variants of the method side by side."""

import argparse
from collections.abc import Sequence

from mdkd_auto.cli.common import add_replicates, add_settings, parser, root_from, run, settings_from


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("Train what an ablation or a control still needs, and write its table. A wrong name lists them all.")
    made.add_argument("name", help="target-labels, sources, fusion, losses, controls, reliability, architecture")
    made.add_argument("-g", "--group", help="CT, MRI, CXR (default: every group)")
    made.add_argument("-t", "--target", action="append", default=[], help="only this target; may be repeated")
    made.add_argument("--dry-run", action="store_true", help="print the jobs, what is done, and an estimate")
    add_replicates(made)
    add_settings(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    root = root_from(arguments)
    from mdkd_auto import pipeline

    pipeline.ablate(
        root, settings, arguments.name, arguments.group, tuple(arguments.target),
        configuration=arguments.configuration, seeds=arguments.seeds, folds=arguments.folds,
        dry_run=arguments.dry_run,
    )  # fmt: skip
    return 0
