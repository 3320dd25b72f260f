"""The built wheel holds the whole package, once; pyproject.toml lists what is there."""

import configparser
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

import mdkd_auto
from mdkd_auto.core.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = 77  # pyproject.toml
ELSEWHERE = {"planners", "preprocessing"}  # at the repository's root, mdkd_auto/* are links


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def listed_packages() -> list[str]:
    return list(read_pyproject()["tool"]["setuptools"]["packages"])


def console_scripts() -> dict[str, str]:
    return dict(read_pyproject()["project"]["scripts"])


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
        assert "mdkd_auto/py.typed" in names
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        stated_metadata = BytesParser().parsebytes(archive.read(metadata))
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        stated = configparser.ConfigParser()
        stated.read_string(archive.read(entry_points).decode())
    assert dict(stated["console_scripts"]) == console_scripts()
    assert stated_metadata["Version"] == mdkd_auto.__version__
    assert stated_metadata["Author"] == "The mdkd_auto authors"
    assert stated_metadata.get_all("Provides-Extra") == [
        "augmentation",
        "classification",
        "detection",
        "all",
        "docs",
        "test",
    ]


def test_extras_hold_the_packages_that_the_code_asks_for() -> None:
    listed = read_pyproject()["project"]["optional-dependencies"]
    for extra in EXTRAS:
        distributions = {requirement.partition(">=")[0] for requirement in listed[extra.name]}
        assert distributions == {module.replace("_", "-") for module in extra.modules}
    assert listed["all"] == [f"mdkd_auto[{','.join(extra.name for extra in EXTRAS)}]"]
    assert "mdkd_auto[all]" in listed["test"]


def test_versions_agree() -> None:
    project = read_pyproject()["project"]
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert project["requires-python"] == f">={pythons[0]}"
    for file in ("noxfile.py", ".github/workflows/ci.yml"):
        listed = re.search(r"(?:PYTHONS =|python:) [(\[](.*)[)\]]", (ROOT / file).read_text(encoding="utf-8"))
        assert listed is not None
        assert re.findall(r"3\.\d+", listed[1]) == pythons, file
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {mdkd_auto.__version__}\n" in citation
