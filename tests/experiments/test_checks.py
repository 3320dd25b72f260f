import pytest
import torch
from torch import nn

from mdkd_auto.data.sampling import Batch
from mdkd_auto.experiments.checks import distillation, linear_cka, source_use
from mdkd_auto.networks.fusion import JointEncoder
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.networks.unet import UNetEncoder, UNetHead
from mdkd_auto.records import Topology

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
    return [Batch(part, torch.zeros(4, *size), ("a", "b", "c", "d")) for part in images]


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

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
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


class Likened(Encoder):
    """A teacher's maps under an invertible linear map of their channels, as a student may learn them."""

    def __init__(self, teacher: Encoder, noise: float) -> None:
        super().__init__()
        self.channels, self.strides, self.kernel_sizes = teacher.channels, teacher.strides, teacher.kernel_sizes
        self.teacher, self.noise = teacher, noise
        self.turns = [torch.linalg.qr(torch.randn(width, width))[0] for width in teacher.channels]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [
            torch.einsum("bc...,cd->bd...", level, turn) + self.noise * torch.randn_like(level)
            for level, turn in zip(self.teacher(x), self.turns, strict=True)
        ]


def test_a_distilled_student_and_one_with_random_weights() -> None:
    joint, drawn = joint_teacher(), batches(16, 16)
    baseline = Model(UNetEncoder(FLAT), UNetHead(FLAT, 2, 1)).eval()
    copy = Model(Likened(joint.encoder, noise=0.0), baseline.head)
    result = distillation(copy, baseline, joint, drawn)
    assert result["check"] == "distillation"
    assert result["distilled"]
    assert result["likeness_of_student"] == pytest.approx(1, abs=1e-4)
    assert result["likeness_of_baseline"] < 0.9
    near = distillation(Model(Likened(joint.encoder, noise=0.3), baseline.head), baseline, joint, drawn)
    assert result["likeness_of_baseline"] < near["likeness_of_student"] < 1
    other = Model(UNetEncoder(FLAT), UNetHead(FLAT, 2, 1)).eval()
    undistilled = distillation(other, copy, joint, drawn)
    assert not undistilled["distilled"]
    assert undistilled["likeness_of_student"] < 0.9


def test_distillation_in_three_dimensions() -> None:
    joint = joint_teacher(THICK)
    student = Model(UNetEncoder(THICK, ndim=3), UNetHead(THICK, 3, 1)).eval()
    result = distillation(student, student, joint, batches(4, 16, 16))
    assert not result["distilled"]  # the same is not more
    assert 0 < result["likeness_of_student"] == result["likeness_of_baseline"] < 1


def test_cka_of_a_copy_is_one_however_turned_scaled_and_shifted() -> None:
    features = torch.randn(50, 6)
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    assert linear_cka(features, features) == pytest.approx(1)
    assert linear_cka(features, 7 * features @ turn + torch.randn(6)) == pytest.approx(1, abs=1e-6)
    stretched = features * torch.tensor([10.0, 1, 1, 1, 1, 1])
    assert linear_cka(features, stretched) < 0.95  # not every linear map is forgiven


def test_cka_of_independent_noise_is_near_zero() -> None:
    assert linear_cka(torch.randn(20_000, 8), torch.randn(20_000, 5)) < 0.01
    assert linear_cka(torch.randn(100, 4), torch.ones(100, 4)) == 0.0


def test_cka_by_hand() -> None:
    """Columns a = (1, -1, 0, 0), b = (1, 0, -1, 0): a.b = 1, |a|^2 = |b|^2 = 2, so 1 / (2 * 2)."""
    a, b = torch.tensor([[1.0], [-1], [0], [0]]), torch.tensor([[1.0], [0], [-1], [0]])
    assert linear_cka(a, b) == pytest.approx(0.25)
    assert linear_cka(a + 5, -3 * b + 2) == pytest.approx(0.25)
    both = torch.cat([a, b], dim=1)  # a^T [a b] = (2, 1): 5 / (2 * sqrt(4 + 1 + 1 + 4))
    assert linear_cka(a, both) == pytest.approx(5 / (2 * 10**0.5))
