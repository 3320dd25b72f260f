"""mdkd_doctor: one file to attach to a bug report."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mdkd_auto.cli.common import find_root, parser, run
from mdkd_auto.core.paths import ROOT_VARIABLE
from mdkd_auto.core.text import escaped
from mdkd_auto.doctor.machine import SHOWN_VARIABLES, Report, look_at_machine, shown_path

logger = logging.getLogger(__name__)

DEFAULT_FILE = Path("mdkd_doctor.txt")
SCHEMA_NAMES = ("dataset", "settings")  # of doctor/schemas.py, which is slow to import


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "Check the installation, the machine and the root folder; report problems and how to fix them.\n"
        "Writes one file to attach to a bug report. It names no case, patient, image or class (docs/doctor.md)."
    )
    made.add_argument("-o", "--out", type=Path, default=DEFAULT_FILE, help=f"output file (default ./{DEFAULT_FILE})")
    made.add_argument("--names", action="store_true", help="show full data set names, not only their numbers")
    made.add_argument(
        "--schema", choices=SCHEMA_NAMES, help="print the JSON schema of dataset.json or of a settings file, then exit"
    )
    return run(made, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    if arguments.schema:
        from mdkd_auto.doctor.schemas import schema

        logger.info("%s", json.dumps(schema(arguments.schema), indent=2))
        return 0
    report = Report()
    environment = {name: os.environ[name] for name in SHOWN_VARIABLES if name in os.environ}
    if ROOT_VARIABLE in os.environ:
        environment[ROOT_VARIABLE] = shown_path(Path(os.environ[ROOT_VARIABLE]))
    logging.disable(logging.WARNING)  # other modules say names
    try:
        look_at_machine(report, environment)
        report.probe("root folder", lambda: _look_at_root(report, arguments))
    finally:
        logging.disable(logging.NOTSET)
    logger.info("%s", report.text())
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        part = arguments.out.with_name(f".tmp_{arguments.out.name}")  # files.py needs packages that may be broken
        text = f"{report.text()}\n\n{json.dumps(report.content(), indent=1)}\n"
        part.write_text(escaped(text), encoding="utf-8")
        os.replace(part, arguments.out)
    except (OSError, ValueError) as error:  # the latter for a path without a name, such as . and /
        print(f"error: {arguments.out}: cannot be written ({error}); give another file with -o", file=sys.stderr)
        return 1
    logger.info("report -> %s", arguments.out.absolute())
    return int(any(finding.level == "error" for finding in report.findings))


def _look_at_root(report: Report, arguments: argparse.Namespace) -> None:
    from mdkd_auto.doctor.root import look_at_root  # needs sound packages, the rest does not

    given = "--root" if arguments.root else ROOT_VARIABLE if os.environ.get(ROOT_VARIABLE) else "default"
    look_at_root(report, find_root(arguments), given, arguments.names)
