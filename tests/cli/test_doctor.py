"""mdkd_doctor: it always answers, with a file and an exit status."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.cli.doctor import main
from mdkd_auto.core.paths import Root
from mdkd_auto.doctor.machine import SHOWN_VARIABLES

Command = Callable[..., Any]
NAME = "mdkd_doctor.txt"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and no root in the environment."""
    monkeypatch.delenv("MDKD_ROOT", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def content(path: Path) -> dict[str, Any]:
    """The JSON block at the end of a report."""
    text = path.read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text[text.index("\n{\n") :])
    return read


def test_help_does_not_wait_for_anything() -> None:
    program = """
import sys
from mdkd_auto.cli.doctor import main
from mdkd_auto.doctor.machine import SHOWN_VARIABLES
try:
    main(["--help"])
finally:
    print("heavy:", sorted({"torch", "numpy", "psutil", "msgspec", "filelock"} & set(sys.modules)))
"""
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "heavy: []"
    assert time.monotonic() - started < 3  # 0.1 s where nothing else runs


def test_without_any_root(command: Command, tmp_path: Path) -> None:
    said = command(main)
    assert said.status == 0, said.out
    assert "note: the root does not exist: give --root or MDKD_ROOT" in said.out
    assert said.out.splitlines()[-1] == f"report -> {tmp_path / 'here' / NAME}"
    assert content(tmp_path / "here" / NAME)["root"]["given_by"] == "default"
    assert not (tmp_path / "here" / "mdkd_data").exists()


def test_a_root_that_was_named_must_be_there(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(main, "--root", tmp_path / "no").status == 1
    monkeypatch.setenv("MDKD_ROOT", str(tmp_path / "no"))
    said = command(main)
    assert said.status == 1
    assert "error: the root does not exist" in said.out
    assert content(Path(NAME))["root"]["given_by"] == "MDKD_ROOT"


def test_the_file_holds_what_is_printed_and_the_same_as_json(command: Command, planned: Root, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.txt"
    said = command(main, "--root", planned.folder, "-o", out)
    assert said.status == 0, said.out
    printed, _, _ = said.out.rpartition("\nreport -> ")
    assert out.read_text(encoding="utf-8").startswith(printed)
    assert [row["data set"] for row in content(out)["data sets"]] == ["Dataset901", "Dataset902", "Dataset903"]
    assert "RoundBright" not in said.out + out.read_text(encoding="utf-8")
    assert "Dataset901_RoundBright" in command(main, "--root", planned.folder, "--names").out


def test_an_error_makes_the_status_1(command: Command, planned: Root, copied: Callable[[Root], Root]) -> None:
    root = copied(planned)
    (root.raw / "Dataset901_RoundBright" / "dataset.json").write_text("{")
    said = command(main, "--root", root.folder)
    assert said.status == 1
    assert "error: Dataset901: 1 x dataset-json-syntax: " in said.out


def test_a_file_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    said = command(main, "-o", tmp_path)
    assert said.status == 1
    assert said.err.startswith(f"error: {tmp_path}: cannot be written")
    assert "versions" in said.out


@pytest.mark.parametrize("path", [".", "/"])
def test_a_path_without_a_name(command: Command, path: str) -> None:
    said = command(main, "-o", path)
    assert said.status == 1
    assert said.err.startswith(f"error: {Path(path)}: cannot be written")


def test_only_some_variables_are_shown(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSPITAL_PASSWORD", "sesame")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(Path, "home", lambda: Path("/users/hmueller"))
    monkeypatch.setenv("MDKD_ROOT", "/users/hmueller/data")
    command(main)
    text = Path(NAME).read_text(encoding="utf-8")
    shown = content(Path(NAME))
    assert shown["environment"]["OMP_NUM_THREADS"] == "7"
    assert shown["environment"]["MDKD_ROOT"] == shown["root"]["path"] == "~/data"
    assert set(shown["environment"]) <= {"MDKD_ROOT", *SHOWN_VARIABLES}
    assert "sesame" not in text
    assert "hmueller" not in text


def test_broken_packages_are_no_obstacle(tmp_path: Path) -> None:
    program = """
import sys
for name in ("torch", "msgspec", "psutil", "numpy", "safetensors", "filelock", "blosc2"):
    sys.modules[name] = None
from mdkd_auto.cli.doctor import main
from mdkd_auto.doctor.machine import SHOWN_VARIABLES
sys.exit(main(["--root", "."]))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stdout + answer.stderr
    for section in ("torch", "machine", "root folder"):
        assert f"error: {section} could not be read: ModuleNotFoundError" in answer.stdout
    assert content(Path(NAME))["versions"]["torch"]
