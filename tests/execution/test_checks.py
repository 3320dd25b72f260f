from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.execution import checks
from mdkd_auto.execution.checks import distillation, source_use
from mdkd_auto.losses.features import unit_scale
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.networks.unet import UNetEncoder, UNetHead
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes

pytestmark = pytest.mark.usefixtures("one_thread")

FLAT = Topology(features=(4, 4, 8), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)))
THICK = Topology(
    features=(4, 4, 4), kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def batches(*size: int) -> list[Batch]:
    images = torch.randn(2, 4, 1, *size)
    return [Batch(part, (part[:, 0] > 1).short(), ("a", "b", "c", "d")) for part in images]


def joint_teacher(topology: Topology = FLAT, teachers: int = 3) -> Model:
    ndim = len(topology.strides[0])
    encoder = JointEncoder([UNetEncoder(topology, ndim=ndim) for _ in range(teachers)])
    return Model(encoder, UNetHead(topology, ndim, 1)).eval()


def ignore_sources(joint: Model) -> None:
    """The concatenation's source parts and what the attention found weigh nothing."""
    assert isinstance(joint.encoder, JointEncoder)
    with torch.no_grad():
        for fusion in joint.encoder.fusions.values():
            kept = slice(fusion.output.out_features, 2 * fusion.output.out_features)  # attended, target, sources
            weight = torch.zeros_like(fusion.reduce.weight)
            weight[:, kept] = fusion.reduce.weight[:, kept]
            fusion.reduce.weight.copy_(weight)


@pytest.mark.parametrize(("topology", "size"), [(FLAT, (16, 16)), (THICK, (4, 16, 16))])
def test_a_joint_teacher_that_listens_and_one_that_does_not(topology: Topology, size: tuple[int, ...]) -> None:
    joint = joint_teacher(topology)
    result = source_use(joint, batches(*size))
    assert result["check"] == "source_use"
    assert result["uses_sources"]
    assert 0.01 < result["output_change"] < 1
    ignore_sources(joint)
    result = source_use(joint, batches(*size))
    assert not result["uses_sources"]
    assert result["output_change"] == pytest.approx(0, abs=1e-6)


class FirstMap(nn.Module):
    """A fusion that hands on the target teacher's map."""

    def forward(self, maps: list[torch.Tensor], weights: torch.Tensor | None = None) -> torch.Tensor:
        return maps[0]


def test_a_fusion_that_hands_on_the_targets_map() -> None:
    joint = joint_teacher()
    assert isinstance(joint.encoder, JointEncoder)
    for level in list(joint.encoder.fusions):
        joint.encoder.fusions[level] = FirstMap()
    assert source_use(joint, batches(16, 16)) == {"check": "source_use", "output_change": 0.0, "uses_sources": False}


def test_without_sources_none_is_used() -> None:
    assert not source_use(joint_teacher(teachers=1), batches(16, 16))["uses_sources"]


def test_an_output_that_finds_nothing_has_no_change() -> None:
    joint = joint_teacher()
    layer = [module for module in joint.head.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-10.0)  # type: ignore[union-attr]
    assert source_use(joint, batches(16, 16))["output_change"] == 0.0


CHANNEL = ClassChannel(name="x", values=(1,), written=1)
CLASSES = {"Dataset001_A": Classes(channels=(CHANNEL,), regions=False, ignore=None)}


def trained_student(topology: Topology, drawn: list[Batch], weight: float) -> StudentObjective:
    """A student after 60 updates with ``weight`` on the feature loss, the only distillation term."""
    ndim = len(topology.strides[0])
    plan = ConfigurationPlan(
        configuration="2d" if ndim == 2 else "3d_fullres",
        datasets=("Dataset001_A",),
        spacing_mm=(1.0,) * ndim,
        patch_size=(16,) * ndim,
        batch_size=4,
        topology=topology,
        reasons=(),
    )
    settings = Settings(gamma=weight, beta=0.0, delta=0.0, warmup_epochs=0.0, ramp_epochs=0.0)
    student = Model(UNetEncoder(topology, ndim=ndim), UNetHead(topology, ndim, 1))
    task = SegmentationTask(plan, CLASSES, settings)
    objective = StudentObjective(student, joint_teacher(topology), task, "Dataset001_A", settings)
    optimiser = torch.optim.Adam(objective.trained().parameters(), lr=1e-2)
    for update in range(60):
        optimiser.zero_grad()
        (terms,) = objective.losses({"Dataset001_A": drawn[update % len(drawn)]}, 0.5)
        terms["total"].backward()
        optimiser.step()
    return objective


@pytest.mark.parametrize(("topology", "size"), [(FLAT, (16, 16)), (THICK, (4, 16, 16))])
def test_a_distilled_student_and_one_that_is_not(topology: Topology, size: tuple[int, ...]) -> None:
    drawn = batches(*size)
    distilled = distillation(trained_student(topology, drawn, weight=5.0), drawn)
    assert distilled["check"] == "distillation"
    assert distilled["distilled"]
    assert 0.05 < distilled["explained"] <= 1
    alone = distillation(trained_student(topology, drawn, weight=0.0), drawn)
    assert not alone["distilled"]
    assert alone["explained"] < 0


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_explains_what_the_whole_does(parts: int) -> None:
    drawn = batches(16, 16)
    drawn = [batch._replace(images=batch.images * torch.arange(1, 5).view(4, 1, 1, 1)) for batch in drawn]
    objective = trained_student(FLAT, drawn, weight=5.0)
    whole, split = distillation(objective, drawn), distillation(objective, drawn, parts)
    assert split["explained_by_level"] == pytest.approx(whole["explained_by_level"], abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "parts", "most"),
    [
        ("joint_teacher", 1, 4),
        ("joint_teacher", 2, 2),
        ("joint_teacher", 4, 2),
        ("student", 1, 4),
        ("student", 4, 1),
    ],
)
def test_batches_are_no_larger_than_the_memory_holds(
    stage: str, parts: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources are silenced by means over two images at least."""
    drawn, joint = batches(16, 16), joint_teacher()
    monkeypatch.setattr(checks, "_load", lambda *_: joint)
    monkeypatch.setattr(checks, "read_run", lambda _: None)
    monkeypatch.setattr(checks, "make_task", lambda _: SimpleNamespace(probabilities=torch.sigmoid))
    objective = trained_student(FLAT, drawn, weight=0.0)
    sizes = set()
    for model in (joint, objective.model, objective.joint_teacher):
        model.encoder.register_forward_hook(lambda _, images, __: sizes.add(len(images[0])))
    sampler = SimpleNamespace(batch=lambda index, size: drawn[index % 2])
    experiment: Any = SimpleNamespace(root=SimpleNamespace(results=tmp_path))
    streams: Any = SimpleNamespace(validation={"target": sampler}, batch_size=4)
    job: Any = SimpleNamespace(stage=stage, target="target", folder="run")
    checks.write_checks(experiment, job, objective, streams, torch.device("cpu"), parts)
    assert sizes == {most}
    assert (tmp_path / "run" / "checks.json").is_file()


def test_a_perfect_copy_explains_everything() -> None:
    drawn = batches(16, 16)
    objective = trained_student(FLAT, drawn, weight=0.0)
    objective.model.encoder = Scaled(objective.joint_teacher.encoder)
    for project in objective.projections:
        with torch.no_grad():
            project.weight.copy_(torch.eye(len(project.weight))[:, :, None, None])  # type: ignore[operator]
            project.bias.zero_()  # type: ignore[union-attr, operator]
    assert distillation(objective, drawn)["explained"] == pytest.approx(1, abs=1e-5)


class Scaled(Encoder):
    """The joint teacher's maps at unit scale."""

    def __init__(self, teacher: Encoder) -> None:
        super().__init__()
        self.channels, self.strides, self.kernel_sizes = teacher.channels, teacher.strides, teacher.kernel_sizes
        self.teacher = teacher

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return unit_scale(self.teacher(x))
