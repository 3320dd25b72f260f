"""docs/results.md shows what the records hold."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "render_results.py"))
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_records() -> None:
    assert SCRIPT["with_table"](PAGE, SCRIPT["comparison_table"](SCRIPT["load"]())) == PAGE


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) < 80


def test_a_comparison_becomes_a_row() -> None:
    comparison = {
        "target": "011 lung",
        "score": "DSC",
        "n": 30,
        "seeds": 5,
        "updates": 300,
        "alone": {"mean": 61.4, "std": 1.2},
        "student": {"mean": 61.6},
        "best_control": {"name": "self-distilled", "mean": 63.0, "std": 0.8},
        "difference": -0.1,
        "interval": [-1.8, 2.1],
        "interval_method": "bootstrap of patients and trainings",
        "outcome": "no evidence",
        "command": "mdkd_train 011",
    }
    assert SCRIPT["comparison_row"](comparison) == [
        "011 lung, 5 seeds, 300 updates, DSC",
        "30",
        "61.4 ± 1.2",
        "61.6",
        "self-distilled 63.0 ± 0.8",
        "-0.1 (-1.8 to +2.1)†",
        "no evidence",
        "`mdkd_train 011`",
    ]


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="comparisons: begin"):
        SCRIPT["with_table"]("# Results", "| a |")


@pytest.mark.parametrize(
    "file", sorted((ROOT / "benchmarks" / "records" / "results").glob("*.json")), ids=lambda f: f.stem
)
def test_rows_have_as_many_cells_as_columns(file: Path) -> None:
    for experiment in json.loads(file.read_text(encoding="utf-8"))["experiments"]:
        for table in experiment.get("tables", ()):
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}, table["title"]
