"""``python -m mdkd_auto``: the same commands as the installed scripts."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mdkd_auto
from mdkd_auto.__main__ import COMMANDS, PREFIX, main

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@pytest.fixture(autouse=True)
def _own_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mdkd_auto"])


def test_every_script_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    scripts = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
    assert {f"{PREFIX}{name}" for name in COMMANDS} == set(scripts)
    for name, (command, _) in COMMANDS.items():
        assert scripts[f"{PREFIX}{name}"] == f"{command.__module__}:main"
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_version_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--version"])
    assert capsys.readouterr().out == f"mdkd_auto {mdkd_auto.__version__}\n"


def test_runs_a_command_by_either_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ablate", "mdkd_ablate"):
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert capsys.readouterr().out.startswith("usage: mdkd_ablate")


def test_refuses_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no command 'trian'")
    assert "train_all_permutations" in said.err


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "mdkd_auto", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1] == mdkd_auto.__version__
    )
