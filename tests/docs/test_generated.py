"""docs/generate.py keeps the manual in step with the code."""

import runpy
from pathlib import Path

import pytest

from mdkd_auto.core import records

DOCS = Path(__file__).parent.parent.parent / "docs"
SCRIPT = runpy.run_path(str(DOCS / "generate.py"))
PAGES = SCRIPT["PAGES"]


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_as_generated(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert PAGES[name](page) == page, "run python docs/generate.py"


def test_what_the_code_says_is_restored() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    row = "| `epochs` | `300` | `--epochs` | maximum number of epochs | P | all |"
    assert row in page
    stale = page.replace(row, "| `epochs` | 5 | | maximum number of epochs | P | none |")
    assert PAGES["settings.md"](stale) == page


def test_a_setting_that_does_not_exist_is_refused() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="epochs, epoks"):
        PAGES["settings.md"](page.replace("| `epochs` |", "| `epoks` |"))


def test_a_kind_without_a_row_is_refused() -> None:
    page = (DOCS / "integrity.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if not line.startswith("| `truncated` |")]
    with pytest.raises(ValueError, match="truncated"):
        PAGES["integrity.md"]("\n".join(lines))


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("epochs", "all"),
        ("gamma", "student"),
        ("fuse", "joint teacher"),
        ("target_label_weight", "source teacher"),
        ("width", "by the job"),
        ("device", "none"),
        ("classification.joint_channels", "joint teacher"),
        ("detection.gradient_clip_norm", "all"),
        ("detection.encoder_rate", "all but joint teacher"),
    ],
)
def test_stages_that_depend_on_a_setting(setting: str, stages: str) -> None:
    assert SCRIPT["stages_text"](setting) == stages


def test_every_command_has_a_section() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    commands = {path.stem for path in (DOCS.parent / "mdkd_auto" / "cli").glob("*.py")} - {"__init__", "common"}
    assert {line[8:] for line in page.splitlines() if line.startswith("## mdkd_")} == commands


@pytest.mark.parametrize(
    "name",
    [
        "Plan",
        "DatasetPlan",
        "Normalisation",
        "ConfigurationPlan",
        "Topology",
        "Reason",
        "Fingerprint",
        "CaseFingerprint",
        "Intensities",
        "Lesion",
    ],
)
def test_every_field_of_a_plan_is_explained(name: str) -> None:
    page = (DOCS / "plan.md").read_text(encoding="utf-8")
    (section,) = [part for part in page.split("\n### ") if part.startswith((f"{name}\n", f"{name}:", f"{name} ("))]
    for field in getattr(records, name).__struct_fields__:
        assert f"`{field}`" in section, field
