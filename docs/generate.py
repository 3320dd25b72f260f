"""Write what the manual takes from the code: settings, problems with raw data, and the flags of the commands.

    python docs/generate.py            # update docs/settings.md, docs/integrity.md and docs/commands.md
    python docs/generate.py --check    # status 1 if a page differs from the code

The text of settings and problems is written by hand in the pages; names, defaults, flags, stages, severities and
remedies come from the code. A row that is missing or superfluous is an error.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from mdkd_auto.cli import common
from mdkd_auto.core.settings import CLASSIFICATION_OF_STAGE, DETECTION_OF_STAGE, Settings
from mdkd_auto.datasets.problems import KINDS
from mdkd_auto.stages.hierarchy import HIERARCHY

DOCS = Path(__file__).parent
COMMANDS = (
    "plan_and_preprocess",
    "train_all_permutations",
    "train",
    "ablate",
    "predict",
    "evaluate",
    "doctor",
    "demo",
)
COMMON_FLAGS = ("-h", "--root", "--verbose", "--version")
WITHOUT_RESULT = ("device", "checkpoint_minutes")  # settings that change no result
OWN_OF_STAGE = {"classification": CLASSIFICATION_OF_STAGE, "detection": DETECTION_OF_STAGE}
TITLES = {stage.name: stage.name.replace("_", " ").replace("multi head", "multi-head") for stage in HIERARCHY}
SETTING, PROBLEM = "| field | default |", "| kind | severity |"  # first cells of the tables' header rows

Row = list[str]


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--check", action="store_true", help="compare the pages with the code; write nothing")
    given = made.parse_args()
    pages = {name: render((DOCS / name).read_text(encoding="utf-8")) for name, render in PAGES.items()}
    stale = [name for name, text in pages.items() if text != (DOCS / name).read_text(encoding="utf-8")]
    if given.check:
        print("\n".join(f"docs/{name} differs from the code; run python docs/generate.py" for name in stale))
        return int(bool(stale))
    for name in stale:
        (DOCS / name).write_text(pages[name], encoding="utf-8")
    return 0


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_page(page: str) -> str:
    """The page with default, flag and stages of each setting. Raises ValueError for unknown and missing settings."""
    defaults, flags = setting_defaults(), setting_flags()
    named = [row[0].strip("`") for row in rows_of(page, SETTING)]
    compare("settings", named, defaults)

    def renewed(row: Row) -> Row:
        name = row[0].strip("`")
        flag = f"`{flags[name]}`" if name in flags else ""
        return [row[0], default_text(defaults[name]), flag, row[3], row[4], stages_text(name)]

    return with_rows(page, SETTING, renewed)


def setting_defaults() -> dict[str, Any]:
    """Each setting -> its default; a task's own by the task's name and a dot."""
    settings = Settings()
    defaults: dict[str, Any] = {}
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        own = getattr(value, "__struct_fields__", None)
        if own is None:
            defaults[name] = value
        else:
            defaults |= {f"{name}.{field}": getattr(value, field) for field in own}
    return defaults


def setting_flags() -> dict[str, str]:
    made = argparse.ArgumentParser()
    common.add_settings(made)
    return {action.dest: action.option_strings[-1] for action in made._actions if action.option_strings}


def default_text(value: Any) -> str:
    """As a settings file writes it."""
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return f"`{text}`"


def stages_text(name: str) -> str:
    task, _, own = name.rpartition(".")
    stages = [stage.name for stage in HIERARCHY if own in (OWN_OF_STAGE[task].get(stage.name, ()) if task else ())]
    stages = stages or [stage.name for stage in HIERARCHY if own in stage.settings]
    if len(stages) == len(HIERARCHY):
        return "all"
    if stages:
        left_out = [stage.name for stage in HIERARCHY if stage.name not in stages]
        return f"all but {TITLES[left_out[0]]}" if len(left_out) == 1 else ", ".join(TITLES[stage] for stage in stages)
    return "none" if own in WITHOUT_RESULT else "by the job"


# --- problems ---------------------------------------------------------------------------------------------------------


def problems_page(page: str) -> str:
    """The page with severity and remedy of each kind, in the code's order. Raises ValueError as for settings."""
    meanings = {row[0].strip("`"): row[2] for row in rows_of(page, PROBLEM)}
    compare("kinds of problems", list(meanings), KINDS)
    rows = iter([f"`{kind}`", severity, meanings[kind], remedy] for kind, (severity, remedy) in KINDS.items())
    return with_rows(page, PROBLEM, lambda row: next(rows))


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_page(page: str) -> str:
    """The page up to its first command, then a section per command."""
    head, _, _ = page.partition("\n## ")
    sections = [*(command_section(name) for name in COMMANDS), training_section()]
    return head.rstrip() + "\n\n" + "\n\n".join(sections) + "\n"


def command_section(name: str) -> str:
    made = parser_of(name)
    shown = [action for action in made._actions if not set(action.option_strings) & set(COMMON_FLAGS)]
    shared = {action.dest for action in training_flags()}
    trains = shared <= {action.dest for action in shown}
    if trains:
        shown = [action for action in shown if action.dest not in shared]
    lines = [f"## mdkd_{name}", "", one_line(made.description or ""), "", *arguments(shown)]
    return "\n".join(lines + ["", "It takes the [training flags](#training-flags) as well."] * trains)


def training_section() -> str:
    text = "Every other setting goes into the file of `--settings` ([settings.md](settings.md))."
    return "\n".join(["## Training flags", "", text, "", *arguments(training_flags())])


def training_flags() -> list[argparse.Action]:
    made = argparse.ArgumentParser(add_help=False)
    common.add_replicates(made)
    common.add_settings(made)
    return made._actions


def arguments(actions: Sequence[argparse.Action]) -> list[str]:
    return table(("argument", "meaning"), [[argument_text(action), one_line(action.help or "")] for action in actions])


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser that a command's main() makes."""
    module = importlib.import_module(f"mdkd_auto.cli.{name}")
    with mock.patch.object(module, "run", lambda made, *_: made):
        made: argparse.ArgumentParser = module.main([])
    return made


def argument_text(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        value = "{" + ", ".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"`{action.dest}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{flag}{takes}`" for flag in action.option_strings)


def one_line(text: str) -> str:
    return " ".join((text.replace("%%", "%")).split()).replace("|", "\\|").replace("<", "&lt;")


# --- tables -----------------------------------------------------------------------------------------------------------


def rows_of(page: str, header: str) -> Iterator[Row]:
    """The rows of every table whose header row starts with ``header``."""
    inside = False
    for line in page.splitlines():
        if line.startswith(header):
            inside = True
        elif inside and line.startswith("|"):
            if not line.startswith("|---"):
                yield cells(line)
        else:
            inside = False


def with_rows(page: str, header: str, renewed: Callable[[Row], Row]) -> str:
    """The page with each such row replaced."""
    lines, inside = [], False
    for line in page.splitlines():
        if line.startswith(header):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            line = row_text(renewed(cells(line)))  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"


def cells(line: str) -> Row:
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


def row_text(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    return [row_text(columns), "|" + "---|" * len(columns), *map(row_text, rows)]


def compare(what: str, named: Sequence[str], in_code: Mapping[str, Any]) -> None:
    """Raise ValueError if the page lacks one, names one that does not exist, or names one twice."""
    wrong = sorted(set(named) ^ set(in_code)) + sorted({name for name in named if named.count(name) > 1})
    if wrong:
        raise ValueError(f"the manual's {what} differ from the code's: {', '.join(wrong)}")


PAGES: dict[str, Callable[[str], str]] = {
    "settings.md": settings_page,
    "integrity.md": problems_page,
    "commands.md": commands_page,
}

if __name__ == "__main__":
    sys.exit(main())
