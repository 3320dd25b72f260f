"""Nothing that is read is ever executed: no call in the sources can run what lies in a file.

Imports of pickle and its kin, allow_pickle and torch.load under its own name: see tests/test_layers.py.
"""

import ast
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.planar import planar_frame
from mdkd_auto.formats.read_write import read_image

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("mdkd_auto", "planners", "preprocessing") for path in (ROOT / folder).rglob("*.py")
)
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load",
    "pandas.read_pickle",
    "numpy.lib.format.read_array",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "tarfile.open",
    "shutil.unpack_archive",
    "runpy.run_path",
    "code.interact",
    "multiprocessing.reduction.loads",
    "xml.etree.ElementTree.parse",
    "xml.dom.minidom.parse",
    "blosc2.load",
    "blosc2.schunk_from_cframe",
    "blosc2.ndarray_from_cframe",
    "tifffile.imread",
    "tifffile.memmap",
    "nibabel.load",
    "matplotlib.image.imread",
    "matplotlib.pyplot.imread",
}
# Calls that are safe in one form alone: a word that must be given, and its value, or None for any.
SAFE_ONLY = {
    "numpy.load": ("allow_pickle", "False"),
    "PIL.Image.open": ("formats", "PILLOW_FORMATS"),
    "SimpleITK.ReadImage": ("imageIO", None),
    "tifffile.TiffFile": ("is_ome", "False"),
    "xml.etree.ElementTree.XMLParser": ("target", "_Plain()"),
}
ONLY_IN = {"blosc2.open": "preprocessing/case_store.py"}  # behind its check of what the file says it is

IMPORTS_BY_NAME = "mdkd_auto/__init__.py"  # imports the modules of its own table, on first use


def unsafe_calls(source: str, file: str = "") -> list[str]:
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
        by_name = called == "importlib.import_module" and not isinstance(node.args[0], ast.Constant)
        dynamic = by_name and file != IMPORTS_BY_NAME
        shell = given.get("shell", "False") != "False"
        word, value = SAFE_ONLY.get(called, ("", None))
        other_form = bool(word) and (word not in given or value not in {None, given[word]})
        elsewhere = ONLY_IN.get(called, file) != file
        if called in FORBIDDEN or dynamic or shell or other_form or elsewhere:
            found.append(f"line {node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_runs_what_it_is_given(path: Path) -> None:
    assert unsafe_calls(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "from torch import load\nload(path)",
        "import torch as t\nt.load(path)",
        "exec(open(path).read())",
        "import numpy as np\nnp.load(path)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "from subprocess import run\nrun(text, shell=given)",
        "import importlib\nimportlib.import_module(name)",
        "import os\nos.system(text)",
        "from PIL import Image as Pillow\nPillow.open(path)",
        "import SimpleITK as sitk\nsitk.ReadImage(path)",
        "import tifffile\ntifffile.TiffFile(path, is_ome=True)",
        "import blosc2\nblosc2.open(path)",
        "from xml.etree import ElementTree\nElementTree.XMLParser()",
    ],
)
def test_unsafe_calls_are_seen(source: str) -> None:
    assert len(unsafe_calls(source)) == 1


def test_safe_calls_are_let_pass() -> None:
    source = (
        "import numpy as np, re, torch\nnp.load(path, allow_pickle=False)\nre.compile(text)\nmodel.eval()\n"
        "torch.compile(model)\nsubprocess.run(['ls'])\nimportlib.import_module('mdkd_auto.pipeline')\n"
        "import SimpleITK as sitk\nsitk.ReadImage(path, imageIO=name)\n"
    )
    assert unsafe_calls(source) == []


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".tif"])
def test_a_picture_that_is_a_program_is_not_given_to_ghostscript(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow goes by the contents, whatever the name, and has Ghostscript draw PostScript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("another program was started"))
    path = tmp_path / f"picture{ending}"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(ImageError):
        read_image(path)
    with pytest.raises(ImageError):
        planar_frame(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_volume_of_another_format_is_not_given_to_its_reader(ending: str, tmp_path: Path) -> None:
    """SimpleITK goes by the contents too: a NIfTI file by the name of another would skip the checks of NIfTI files."""
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "volume.nii")
    path = (tmp_path / "volume.nii").rename(tmp_path / f"volume{ending}")
    with pytest.raises(ImageError):
        read_image(path)
