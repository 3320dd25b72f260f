"""docs/extending.md, followed literally: its files and edits are applied to a copy of the code, which is then run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.M | re.S)
NAMED = re.compile(r"`(mdkd_auto/[a-z_/]+\.py)`")

USE = {
    "A network": """
import torch
from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes

plan = ConfigurationPlan(
    configuration="2d", datasets=("a",), spacing_mm=(1.0, 1.0), patch_size=(16, 16), batch_size=4, reasons=(),
    topology=Topology(features=(4, 8), kernel_sizes=((3, 3),) * 2, strides=((1, 1), (2, 2))),
)
lesion = ClassChannel(name="lesion", values=(1,), written=1)
classes = {"a": Classes(channels=(lesion,), regions=False, ignore=None)}
task = SegmentationTask(plan, classes, Settings(), architecture="plain")
images, labels = torch.randn(4, 1, 16, 16), torch.randint(0, 2, (4, 16, 16), dtype=torch.int16)
batch = Batch(images, labels, ("1", "2", "3", "4"))

def student():
    encoder = task.encoder()
    return Model(encoder, task.head(1, encoder))

network = student()
assert network(images).shape == (4, 1, 16, 16)
assert [tuple(level.shape) for level in network.features(images)] == [(4, 4, 16, 16), (4, 8, 8, 8)]
assert torch.allclose(network(images[:1]), network(images)[:1], atol=1e-5)
joint = task.joint_encoder([student().encoder, student().encoder], None)
teacher = Model(joint, task.head(1, joint))

def terms_of(settings):
    objective = StudentObjective(network, teacher, task, "a", settings)
    (terms,) = objective.losses({"a": batch}, progress=0.9)
    return terms

terms_of(Settings())["total"].backward()
assert all(parameter.grad is not None for parameter in network.parameters())
""",
    "A distillation loss": """
from mdkd_auto.losses.energy import energy_loss
from mdkd_auto.stages.student import STUDENT
from mdkd_auto.stages.teacher import TEACHER

maps = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)
loss = energy_loss([maps], [torch.ones(1, 1, 2, 2)])
loss.backward()
assert loss.item() == 3.0  # |4 - 1|
assert maps.grad.ne(0).all()
assert "epsilon" in STUDENT.settings and "epsilon" not in TEACHER.settings
assert "energy" not in terms_of(Settings())
terms = terms_of(Settings(gamma=0.0, delta=0.0, beta=0.0, epsilon=0.5))
assert torch.isclose(terms["total"], terms["task"] + 0.5 * terms["energy"])
""",
    "An input format": """
import tempfile
from pathlib import Path
import numpy as np
from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.read_write import read_image, read_mask, write_mask

with tempfile.TemporaryDirectory() as folder:
    path, mask = Path(folder) / "a_0000.npy", Path(folder) / "a.npy"
    np.save(path, np.arange(12, dtype=np.int16).reshape(3, 4))
    image = read_image(path)
    assert image.array.shape == (1, 3, 4) and not image.spacing_known
    write_mask(mask, (image.array > 5).astype(np.uint8), image.header)
    assert np.load(mask).tolist() == (np.arange(12).reshape(3, 4) > 5).tolist()
    assert read_mask(mask).array.sum() == 6
    path.write_bytes(b"not an array")
    try:
        read_image(path)
    except ImageError as error:
        assert "a_0000.npy" in str(error)
    else:
        raise AssertionError("a damaged file was read")
""",
}


class Step(NamedTuple):
    """One code block of a section: a new file's content, or an edit of an existing file."""

    path: str
    kind: str
    content: str


def steps(section: str) -> Iterator[Step]:
    """The blocks of a section with the file that the text before them names last."""
    page = PAGE.read_text(encoding="utf-8")
    text = page.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    path = ""
    before, *blocks = BLOCK.split(text)
    for kind, content, after in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        path = (NAMED.findall(before) or [path])[-1]
        yield Step(path, kind, content)
        before = after


def applied(text: str, diff: str) -> str:
    """The text after an edit whose unchanged and removed lines stand in it exactly once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"docs/extending.md edits lines that are not there once:\n{before}"
    return text.replace(before, after)


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the package with all three extensions."""
    copy = tmp_path
    ignored = shutil.ignore_patterns("__pycache__", "planners", "preprocessing")
    shutil.copytree(ROOT / "mdkd_auto", copy / "mdkd_auto", ignore=ignored)
    for name in ("planners", "preprocessing"):
        shutil.copytree(ROOT / name, copy / "mdkd_auto" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for section in USE:
        for step in steps(section):
            file = copy / step.path
            assert file.exists() == (step.kind == "diff"), step.path
            content = step.content if step.kind == "python" else applied(file.read_text("utf-8"), step.content)
            file.write_text(content, encoding="utf-8")
    return copy


def test_following_the_page_works(changed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(changed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "\n".join(USE.values())]
    done = subprocess.run(command, cwd=changed, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_section_names_what_to_touch() -> None:
    page = PAGE.read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    for section in (*USE, "A task", "An ablation", "An executor"):
        assert sections[section].lstrip().startswith("Touch: "), section
