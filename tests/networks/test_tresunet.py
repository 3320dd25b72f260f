from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import mdkd_auto.networks.tresunet as module
from mdkd_auto.core.errors import PlanError, SettingsError
from mdkd_auto.core.records import Topology
from mdkd_auto.losses.overlap import dice_bce_loss
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.tresunet import (
    TransformerBlock,
    TransformerLayer,
    TResUNetEncoder,
    TResUNetHead,
    position_code,
    tresunet_topology,
)
from mdkd_auto.planners.topology import pad_to_multiple, plan_topology, total_stride

FLAT = tresunet_topology(plan_topology((256, 256), (1.0, 1.0)), width=4)
SHALLOW = tresunet_topology(plan_topology((16, 16), (1.0, 1.0)), width=4)
THICK_SLICES = tresunet_topology(plan_topology((16, 64, 64), (4.0, 1.0, 1.0)), width=4)
CUBES = tresunet_topology(plan_topology((128, 128, 128), (1.0, 1.0, 1.0)), width=6)
TWO_STAGES = tresunet_topology(plan_topology((8, 8, 8), (1.0, 1.0, 1.0)), width=5)


def axes_of(topology: Topology) -> int:
    return len(topology.strides[0])


def network(topology: Topology, outputs: int = 1, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    axes = axes_of(topology)
    return Model(TResUNetEncoder(topology, ndim=axes), TResUNetHead(topology, axes, outputs))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- layout ---------------------------------------------------------------------------------------------------------


def test_full_size() -> None:
    topology = tresunet_topology(plan_topology((256, 256), (1.0, 1.0)))
    assert topology.features == (16, 64, 256, 512, 512)
    with torch.device("meta"):
        encoder, head = TResUNetEncoder(topology), TResUNetHead(topology, 2, 1)
        resnet = timm.create_model("resnet50_gn", features_only=True, out_indices=(0, 1, 2, 3), in_chans=1)
    assert encoder.strides == ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16))
    assert count(encoder.stages) == count(resnet)
    published = 27_597_025  # three input channels
    fewer_input_channels = 2 * 64 * 7 * 7
    shortcuts = sum(c * c + 3 * c for c in (256, 128, 64, 32))  # of each second decoder block: ours have no weights
    biases = 7 * 256 + 5 * (256 + 128 + 64 + 32)  # before normalisations
    stem = 16 * (9 + 1) + (16 - 3) * 32 * (9 + 1)  # itself, and the wider skip
    assert count(encoder) + count(head) == 27_502_401
    assert count(encoder) + count(head) == published - fewer_input_channels - shortcuts - biases + stem


def test_topology_follows_the_plan() -> None:
    plan = plan_topology((16, 64, 64), (4.0, 1.0, 1.0))
    assert (THICK_SLICES.strides, THICK_SLICES.kernel_sizes) == (plan.strides, plan.kernel_sizes)
    assert THICK_SLICES.features == (4, 4, 16, 32, 32)
    assert len(plan_topology((256, 256), (1.0, 1.0)).strides) == 7
    assert len(FLAT.strides) == 5
    assert SHALLOW.features == (4, 4, 32)  # 16 x 16 is pooled twice
    assert TWO_STAGES.features == (4, 40)
    assert TResUNetEncoder(THICK_SLICES, ndim=3).strides == ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16))


SIZES = [
    *((FLAT, size) for size in ((16, 16), (64, 64), (48, 80), (33, 17), (1, 1), (8, 40), (31, 1))),
    *((SHALLOW, size) for size in ((16, 16), (7, 9))),
    *((THICK_SLICES, size) for size in ((8, 32, 32), (5, 17, 33), (1, 8, 40), (1, 16, 16))),
    *((CUBES, size) for size in ((16, 16, 16), (9, 20, 33))),
    *((TWO_STAGES, size) for size in ((8, 8, 8), (3, 5, 7))),
]


@pytest.mark.parametrize(("topology", "size"), SIZES, ids=lambda value: str(value) if isinstance(value, tuple) else "")
def test_shapes(topology: Topology, size: tuple[int, ...]) -> None:
    model = network(topology, outputs=3)
    maps = model.features(torch.randn(1, 1, *size))
    assert model.encoder.channels == topology.features
    assert len(maps) == len(model.encoder.strides) == len(model.encoder.kernel_sizes)
    for features, channels, stride in zip(maps, model.encoder.channels, model.encoder.strides, strict=True):
        assert features.shape == (1, channels, *(-(-length // step) for length, step in zip(size, stride, strict=True)))
    assert model.head(maps).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("patch", "spacing_mm", "stages"),
    [
        ((8, 8), (1.0, 1.0), 2),
        ((20, 33), (1.0, 0.3), 4),
        ((130, 512), (1.9, 1.0), 8),
        ((7, 100), (10.0, 1.0), 5),
        ((1, 64, 64), (5.0, 1.0, 1.0), 5),
        ((3, 33, 20), (10.0, 0.5, 0.5), 4),
        ((16, 9, 130), (3.0, 1.9, 0.3), 6),
        ((64, 64, 64), (1.0, 1.0, 1.0), 5),
    ],
)
def test_whatever_a_plan_asks_for(patch: tuple[int, ...], spacing_mm: tuple[float, ...], stages: int) -> None:
    """Shapes alone, of patches that the planner pads and pools."""
    plan = plan_topology(patch, spacing_mm)
    assert len(plan.strides) == stages
    size = pad_to_multiple(patch, total_stride(plan))
    with torch.device("meta"):
        model = network(tresunet_topology(plan, width=16))
        for trimmed in (0, 1):  # 1: an image that is not a multiple of the strides
            x = torch.empty(2, 1, *(max(1, length - trimmed) for length in size))
            model(x).sum().backward()
            assert model(x).shape == x.shape
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_enlarging_keeps_places() -> None:
    """A map of row numbers, each at its voxels' centre, becomes the row numbers of the finer map, cut at the end."""
    rows = torch.arange(5.0)[None, None, :, None].expand(1, 1, 5, 4) * 2 + 0.5
    finer = module._enlarged(rows, (2, 1), (9, 4))
    assert finer.shape == (1, 1, 9, 4)
    torch.testing.assert_close(finer[0, 0, 1:, 0], torch.arange(1.0, 9.0))


@pytest.mark.parametrize("topology", [FLAT, THICK_SLICES])
def test_levels_are_fused_by_a_joint_teacher(topology: Topology) -> None:
    axes = axes_of(topology)
    joint = JointEncoder([TResUNetEncoder(topology, ndim=axes) for _ in range(2)])
    x = torch.randn(2, 1, *(4, 35, 33)[-axes:])
    assert Model(joint, TResUNetHead(topology, axes, 2))(x).shape == (2, 2, *x.shape[2:])
    assert all(p.grad is None for p in joint.teachers.parameters())


def test_refusals() -> None:
    with pytest.raises(SettingsError, match="Width 3 is too narrow for a TResUNet; use 4 or more"):
        tresunet_topology(FLAT, 3)
    with pytest.raises(PlanError, match="two stages or more"):
        tresunet_topology(plan_topology((4, 4), (1.0, 1.0)))
    with pytest.raises(PlanError, match="make its topology by tresunet_topology"):
        TResUNetEncoder(plan_topology((64, 64), (1.0, 1.0)))
    with pytest.raises(PlanError, match=r"have \[2\] axes; a 3-D network needs 3"):
        TResUNetHead(FLAT, 3, 1)
    strided = Topology(features=FLAT.features, kernel_sizes=FLAT.kernel_sizes, strides=((2, 2),) * 5)
    with pytest.raises(PlanError, match="use ones"):
        TResUNetEncoder(strided)


# --- behaviour ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", [FLAT, THICK_SLICES])
@pytest.mark.parametrize("training", [True, False])
def test_an_image_does_not_depend_on_its_neighbours(topology: Topology, training: bool) -> None:
    model = network(topology).train(training)
    images = torch.randn(3, 1, *(4, 40, 40)[-axes_of(topology) :])
    images[0] *= 100
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-3, atol=1e-4)


def test_training_and_evaluation_agree() -> None:
    """No dropout, no batch statistics: a frozen teacher is the network that was trained."""
    model, images = network(FLAT), torch.randn(2, 1, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(model.train()(images), model.eval()(images))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_same_seed_same_weights() -> None:
    first, second, other = network(FLAT), network(FLAT), network(FLAT, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("topology", "size"), [(FLAT, (64, 64)), (THICK_SLICES, (8, 64, 64))])
def test_every_weight_is_trained(topology: Topology, size: tuple[int, ...]) -> None:
    model = network(topology, outputs=2)
    model(torch.randn(2, 1, *size)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_narrow_networks_are_as_steady_as_the_full_one() -> None:
    """Groups of few features amplify rounding where the image has few positions: bfloat16 on a map of 4 x 4."""
    model, x = network(tresunet_topology(FLAT, 8)), torch.randn(2, 1, 64, 64)
    exact = model.features(x)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.features(x)[-1].float()
    assert (rounded - exact).square().mean().sqrt() < 0.1 * exact.std()


def test_output_starts_at_the_background() -> None:
    probability = torch.sigmoid(network(FLAT)(torch.randn(2, 1, 32, 32)))
    assert probability.mean() < 0.2


@pytest.mark.parametrize("topology", [FLAT, THICK_SLICES])
def test_learns_one_image_by_heart(topology: Topology, learn: Callable[..., None]) -> None:
    model = network(topology)
    torch.manual_seed(0)
    image = torch.randn(1, 1, *(4, 32, 32)[-axes_of(topology) :])
    truth = torch.zeros_like(image)
    truth[..., 9:17, 5:12] = 1.0
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)

    def update() -> None:
        optimiser.zero_grad()
        dice, bce = dice_bce_loss(model(image), truth, torch.ones_like(truth))
        (dice + bce).backward()
        optimiser.step()

    def learnt() -> bool:
        found = model(image) > 0
        return (2 * (found & (truth > 0)).sum() / (found.sum() + truth.sum())).item() > 0.95

    learn(update, learnt, 400)


# --- transformer ----------------------------------------------------------------------------------------------------


def test_a_layer_is_that_of_the_library() -> None:
    torch.manual_seed(0)
    ours, tokens = TransformerLayer(16), torch.randn(2, 6, 16)
    peer = nn.TransformerEncoderLayer(16, 8, dim_feedforward=128, dropout=0.0, batch_first=True, norm_first=True)
    attention, perceptron = peer.self_attn, (peer.linear1, peer.linear2)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        attention.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    attention.out_proj.load_state_dict(ours.output.state_dict())
    for theirs, layer in zip(perceptron, (ours.perceptron[0], ours.perceptron[2]), strict=True):
        theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(ours(tokens, (2, 3)), peer(tokens))


def shuffled_difference(block: TransformerBlock) -> float:
    """How much attention changes when the positions are shuffled before and put back after."""
    x, order = torch.randn(1, 16, 4, 5), torch.randperm(20)
    shuffled = x.flatten(2)[..., order].unflatten(2, (4, 5))
    back = block.attend(shuffled).flatten(2)[..., order.argsort()].unflatten(2, (4, 5))
    return (block.attend(x) - back).abs().max().item()


def test_position_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(4, 16, 16, (3, 3))
    assert shuffled_difference(block) > 1e-2
    monkeypatch.setattr(module, "position_code", lambda size, features, device: torch.zeros(1, features))
    assert shuffled_difference(block) < 1e-5


@pytest.mark.parametrize(("size", "features"), [((7, 9), 16), ((3, 4, 5), 16), ((64, 64), 256), ((1, 1), 16)])
def test_every_position_has_its_own_code(size: tuple[int, ...], features: int) -> None:
    code = position_code(size, features)
    assert code.shape == (torch.Size(size).numel(), features)
    assert len(code.unique(dim=0)) == len(code)
    assert code.abs().max() <= 1


def test_position_code_by_hand() -> None:
    first, second = torch.tensor([1.0, 0.1]), torch.tensor([2.0, 0.2])  # frequencies 1 and 1 / 10 at voxels 1 and 2
    expected = torch.cat([first.sin(), second.sin(), first.cos(), second.cos()])
    torch.testing.assert_close(position_code((2, 3), 8)[5], expected)


@pytest.mark.parametrize("size", [(68, 64), (5, 30, 30)])
def test_many_tokens_find_pooled_keys(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = TransformerLayer(8), torch.randn(1, 8, *size)
    tokens = x.flatten(2).transpose(1, 2)
    pooled = module._pooled_tokens(tokens, size)
    assert pooled.shape[1] <= 4096
    grid = (64, 64) if len(size) == 2 else (5, 16, 16)
    pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    torch.testing.assert_close(pooled, pool(x, grid).flatten(2).transpose(1, 2))
    assert layer(tokens, size).shape == tokens.shape
    assert module._pooled_tokens(tokens[:, :4096], (64, 64)).shape[1] == 4096
