"""mdkd_evaluate: score masks, classes or boxes against the truth, or write the table of what is trained."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from mdkd_auto.cli.common import add_replicates, add_settings, parser, report_problems, root_from, run, settings_from
from mdkd_auto.errors import SettingsError

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "With -i and -l: score a folder of predictions, masks, classes or boxes, against a raw data set.\n"
        "Without: write the tables of all permutations finished with these settings; nothing is trained."
    )
    made.add_argument("-i", "--masks", type=Path, help="folder of masks named as the cases, of classes or boxes")
    made.add_argument("-l", "--labels", type=Path, help="raw data set with the truth: .../Dataset011_LungTumour")
    made.add_argument("-o", "--out", type=Path,
                      help="folder for summary.json, .csv and .md, not a run's own (default: the masks')")  # fmt: skip
    made.add_argument("-g", "--group", help="CT, MRI, CXR (default: every group)")
    add_replicates(made)
    add_settings(made)
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    if (arguments.masks is None) != (arguments.labels is None):
        raise SettingsError("-i and -l go together: masks, and the raw data set with their labels")
    if arguments.masks is None:
        settings = settings_from(arguments)
        root = root_from(arguments)
        from mdkd_auto import pipeline

        tables = pipeline.tables(
            root, settings, arguments.group, configuration=arguments.configuration, seeds=arguments.seeds,
            folds=arguments.folds,
        )  # fmt: skip
        for table in tables:
            logger.info("%s\ntable -> %s", table.markdown, table.path)
        return 0
    from mdkd_auto import pipeline

    text, failed = pipeline.evaluate(
        arguments.masks, arguments.labels, keep_classes=bool(arguments.keep_classes), out=arguments.out
    )
    logger.info("%s-> %s", text, (arguments.out or arguments.masks) / "summary.json")
    return report_problems([f"{case}: {problem}" for case, problem in failed.items()])
