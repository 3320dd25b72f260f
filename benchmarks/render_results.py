"""Render docs/results.md from the figures in benchmarks/records/results/.

python benchmarks/render_results.py            # write the table of docs/results.md
python benchmarks/render_results.py --check    # status 1 if the table differs from the records
python benchmarks/render_results.py --full     # print every experiment with all its figures, as Markdown
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records" / "results"
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- comparisons: begin -->", "<!-- comparisons: end -->"
ORDER = ("ct_segmentation", "ct_detection", "cxr_classification", "mri_volumes", "against_nnunet", "cost_of_updates")
COLUMNS = ("target", "n", "alone", "student", "best control", "difference (95 % interval)", "verdict", "command")
BOOTSTRAP = "bootstrap of patients and trainings"


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--check", action="store_true", help="compare docs/results.md with the records; write nothing")
    made.add_argument("--full", action="store_true", help="print every experiment instead")
    given = made.parse_args()
    records = load()
    if given.full:
        print("\n".join(all_experiments(records)))
        return 0
    page = PAGE.read_text(encoding="utf-8")
    rendered = with_table(page, comparison_table(records))
    if given.check:
        return int(page != rendered)
    PAGE.write_text(rendered, encoding="utf-8")
    return 0


def load() -> dict[str, Any]:
    """Record name -> its content, in the order of the page."""
    return {name: json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8")) for name in ORDER}


def with_table(page: str, table: str) -> str:
    """The page with ``table`` between its two markers. Raises ValueError without them."""
    before, _, rest = page.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"{PAGE} has no table between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def comparison_table(records: dict[str, Any]) -> str:
    """One row per comparison of a student with its network trained alone."""
    rows = [comparison_row(comparison) for comparison in comparisons(records)]
    return markdown_table(COLUMNS, rows)


def comparisons(records: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for record in records.values():
        found = [one for experiment in record["experiments"] for one in experiment.get("comparisons", ())]
        yield from sorted(found, key=lambda one: (one["target"], one["updates"], one["seeds"]))


def comparison_row(comparison: dict[str, Any]) -> list[str]:
    control, interval, note = comparison["best_control"], comparison["interval"], comparison.get("note")
    difference = f"{comparison['difference']:+.1f}"
    if interval is not None:
        mark = "†" if comparison["interval_method"] == BOOTSTRAP else ""
        difference += f" ({interval[0]:+.1f} to {interval[1]:+.1f}){mark}"
    return [
        f"{comparison['target']}, {comparison['seeds']} seeds, {comparison['updates']} updates, {comparison['score']}",
        str(comparison["n"]),
        mean_and_deviation(comparison["alone"]),
        mean_and_deviation(comparison["student"]),
        f"{control['name']} {mean_and_deviation(control)}" if control is not None else "–",
        difference,
        comparison["outcome"] + (f"; {note}" if note else ""),
        f"`{comparison['command']}`",
    ]


def mean_and_deviation(score: dict[str, Any]) -> str:
    return f"{score['mean']:.1f}" + (f" ± {score['std']:.1f}" if "std" in score else "")


def all_experiments(records: dict[str, Any]) -> Iterator[str]:
    """Every experiment: commands, setup, tables and notes."""
    for name, record in records.items():
        yield f"# {record.get('data', name)}\n"
        for experiment in record["experiments"]:
            yield f"## {experiment['title']}\n"
            yield from [f"    {command}" for command in experiment.get("commands", ())]
            yield from [f"- {key}: {cell_text(value)}" for key, value in experiment.get("setup", {}).items()]
            for table in experiment.get("tables", ()):
                rows = [[cell_text(cell) for cell in row] for row in table["rows"]]
                yield f"\n**{table['title']}**\n\n{markdown_table(table['columns'], rows)}"
            yield from [f"\n{note}" for note in experiment.get("notes", ())]
            yield ""


def cell_text(cell: Any) -> str:
    """A figure of a record as text: its fields named, a missing one blank."""
    if cell is None:
        return ""
    if isinstance(cell, dict):
        return ", ".join(f"{name} {cell_text(value)}" for name, value in cell.items())
    if isinstance(cell, list):
        return ", ".join(cell_text(value) for value in cell)
    return str(cell)


def markdown_table(columns: Any, rows: list[list[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
