"""The built wheel holds the whole package, once; setup.cfg lists what is there."""

import configparser
import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = 77  # pyproject.toml
ELSEWHERE = {"planners", "preprocessing"}  # at the repository's root, mdkd_auto/* are links


def read_setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed_packages() -> list[str]:
    return read_setup()["options"]["packages"].split()


def console_scripts() -> dict[str, str]:
    lines = read_setup()["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def modules(repository: Path = ROOT) -> dict[str, Path]:
    """Where each module should lie in an installation -> its file in the repository."""
    found = {
        path.relative_to(repository).as_posix(): path
        for path in (repository / "mdkd_auto").rglob("*.py")
        if path.relative_to(repository).parts[1] not in ELSEWHERE
    }
    for folder in ELSEWHERE:
        paths = (repository / folder).rglob("*.py")
        found |= {f"mdkd_auto/{path.relative_to(repository).as_posix()}": path for path in paths}
    return found


def test_every_folder_with_python_files_is_listed() -> None:
    folders = {name.rsplit("/", 1)[0].replace("/", ".") for name in modules()}
    assert sorted(folders) == sorted(listed_packages())
    for package in listed_packages():
        assert f"{package.replace('.', '/')}/__init__.py" in modules()


def test_the_links_lead_to_the_folders_at_the_root() -> None:
    for name in ELSEWHERE:
        assert (ROOT / "mdkd_auto" / name).resolve() == ROOT / name


def test_commands_point_to_functions() -> None:
    scripts = console_scripts()
    assert set(scripts) >= {"mdkd_plan_and_preprocess", "mdkd_train_all_permutations", "mdkd_predict", "mdkd_evaluate"}
    for name, target in scripts.items():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_wheel(tmp_path: Path) -> None:
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("setuptools is not installed: a wheel cannot be built offline")
    if int(version.split(".")[0]) < SETUPTOOLS:
        pytest.skip(f"setuptools {version} is too old to build a wheel: pyproject.toml asks for {SETUPTOOLS}")
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "mdkd_data", "mdkd_demo")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--quiet",
            "--wheel-dir",
            tmp_path / "wheels",
            source,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names))
        python = {name for name in names if name.endswith(".py")}
        assert python == set(modules(source))  # all of it, once, and no tests
        for name, path in modules(source).items():
            assert archive.read(name) == path.read_bytes()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        stated = configparser.ConfigParser()
        stated.read_string(archive.read(entry_points).decode())
    assert dict(stated["console_scripts"]) == console_scripts()
