"""mdkd_ablate NAME: variants of the method side by side."""

import argparse
from collections.abc import Sequence

from mdkd_auto.cli.common import add_training, parser, root_from, run, settings_from, training_options


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("Train what an ablation or a control still needs, and write its table. A wrong name lists them all.")
    made.add_argument("name",
                      help="controls, labels, sources, losses, ...; a wrong one lists them all")
    made.add_argument("-g", "--group", help="CT, MRI, CXR (default: every group)")
    made.add_argument("-t", "--target", action="append", default=[], help="only this target; may be repeated")
    add_training(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    root = root_from(arguments)
    from mdkd_auto import pipeline

    targets = tuple(arguments.target)
    pipeline.ablate(root, settings, arguments.name, arguments.group, targets, **training_options(arguments))
    return 0
