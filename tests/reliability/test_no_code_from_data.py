"""Nothing that is read is ever executed: no call in the sources can run what lies in a file.

Imports of pickle and its kin, allow_pickle and torch.load under its own name: see tests/test_layers.py.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("mdkd_auto", "planners", "preprocessing") for path in (ROOT / folder).rglob("*.py")
)
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load",
    "torch.jit.load", "torch.package.PackageImporter", "torch.utils.cpp_extension.load", "pandas.read_pickle",
    "numpy.lib.format.read_array", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "tarfile.open",
    "shutil.unpack_archive", "runpy.run_path", "code.interact", "multiprocessing.reduction.loads",
}  # fmt: skip
SAFE_ONLY = {"numpy.load"}  # with allow_pickle=False, said


def unsafe_calls(source: str) -> list[str]:
    """Calls that could run what they are given, by line."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = ast.unparse(node.func).partition(".")
        called = ".".join(filter(None, (names.get(first, first), rest)))
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        dynamic = called == "importlib.import_module" and not isinstance(node.args[0], ast.Constant)
        shell = given.get("shell", "False") != "False"
        pickled = called in SAFE_ONLY and given.get("allow_pickle") != "False"
        if called in FORBIDDEN or dynamic or shell or pickled:
            found.append(f"line {node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_runs_what_it_is_given(path: Path) -> None:
    assert unsafe_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["eval(text)", "from torch import load\nload(path)", "import torch as t\nt.load(path)", "exec(open(path).read())",
     "import numpy as np\nnp.load(path)", "import numpy\nnumpy.load(path, allow_pickle=True)", "yaml.load(text)",
     "subprocess.run(text, shell=True)", "from subprocess import run\nrun(text, shell=given)",
     "import importlib\nimportlib.import_module(name)", "import os\nos.system(text)"],
)  # fmt: skip
def test_unsafe_calls_are_seen(source: str) -> None:
    assert len(unsafe_calls(source)) == 1


def test_safe_calls_are_let_pass() -> None:
    source = (
        "import numpy as np, re, torch\nnp.load(path, allow_pickle=False)\nre.compile(text)\nmodel.eval()\n"
        "torch.compile(model)\nsubprocess.run(['ls'])\nimportlib.import_module('mdkd_auto.pipeline')\n"
    )
    assert unsafe_calls(source) == []
