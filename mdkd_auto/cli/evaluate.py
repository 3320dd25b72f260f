"""mdkd_evaluate: score masks, classes or boxes against the ground truth, or write the tables of finished runs."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from mdkd_auto.cli.common import add_replicates, add_settings, parser, report_problems, root_from, run, settings_from
from mdkd_auto.core.errors import SettingsError

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "With -i and -l: score a folder of predicted masks, classes or boxes against a raw data set.\n"
        "Without: write the tables of all permutations that are finished with these settings, without training."
    )
    made.add_argument(
        "-i", "--masks", type=Path, help="folder of predictions: masks named after their cases, classes or boxes"
    )
    made.add_argument(
        "-l", "--labels", help="raw data set with the ground truth: folder, labelsTr, name or number (011)"
    )
    made.add_argument(
        "-o",
        "--out",
        type=Path,
        help="output folder for summary.json, .csv and .md; must not be a run folder (default: the folder of -i)",
    )
    made.add_argument(
        "--allow-missing",
        action="store_true",
        help="exit with status 0 despite cases without a prediction; they are still listed",
    )
    made.add_argument(
        "--exclude-broken",
        action="store_true",
        help="exit with status 0 despite predictions for cases that are broken in the data set",
    )
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
            root,
            settings,
            arguments.group,
            configuration=arguments.configuration,
            seeds=arguments.seeds,
            folds=arguments.folds,
        )
        for table in tables:
            logger.info("%s\ntable -> %s", table.markdown, table.path)
        return report_problems([one for table in tables for one in table.problems])
    from mdkd_auto import pipeline

    named = Path(arguments.labels).name == arguments.labels and not Path(arguments.labels).exists()
    text, problems = pipeline.evaluate(
        arguments.masks,
        arguments.labels,
        root=root_from(arguments) if named else None,
        keep_classes=arguments.keep_classes,
        out=arguments.out,
        allow_missing=arguments.allow_missing,
        exclude_broken=arguments.exclude_broken,
    )
    logger.info("%s-> %s", text, (arguments.out or arguments.masks) / "summary.json")
    return report_problems(problems)
