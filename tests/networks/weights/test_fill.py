from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.classifier import ClassifierHead
from mdkd_auto.networks.medvit import MedViTEncoder
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.networks.timm_encoder import TimmEncoder
from mdkd_auto.networks.tresunet import TResUNetEncoder, tresunet_topology
from mdkd_auto.networks.weights.fill import load_backbone, load_encoder
from mdkd_auto.networks.weights.load import load_pretrained
from mdkd_auto.planners.topology import plan_topology
from mdkd_auto.training.checkpoints import save_weights

FULL = plan_topology((256, 256), (1.0, 1.0))
FLAT = tresunet_topology(FULL, width=4)
SHALLOW = plan_topology((16, 16), (1.0, 1.0))
THICK_SLICES = tresunet_topology(plan_topology((16, 64, 64), (4.0, 1.0, 1.0)), width=4)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """The library's ResNet-50 with random weights; its last normalisations, which start at zero, too."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("resnet50_gn", features_only=True, out_indices=(0, 1, 2, 3))
    for name, parameter in network.named_parameters():
        if "bn" in name or "downsample.1" in name:
            nn.init.uniform_(parameter, 0.2, 1.0)
    return network


@pytest.fixture(scope="module")
def weights(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("weights") / "resnet50_gn.safetensors"
    others = {"fc.weight": torch.zeros(10, 2048), "layer4.0.conv1.weight": torch.zeros(512, 1024, 1, 1)}
    save_file({**resnet.state_dict(), **others}, file)
    yield file
    file.unlink()


def stages_of(encoder: TResUNetEncoder, x: Tensor) -> list[Tensor]:
    maps = []
    for stage in encoder.stages:
        x = stage(x)
        maps.append(x)
    return maps


@pytest.mark.parametrize("channels", [1, 3])
def test_pretrained_stages_are_the_librarys(resnet: nn.Module, weights: Path, channels: int) -> None:
    topology = tresunet_topology(FULL)
    encoder = TResUNetEncoder(topology, in_channels=channels)
    load_backbone(weights, encoder)
    x = torch.randn(1, channels, 40, 36)
    with torch.no_grad():
        for ours, theirs in zip(stages_of(encoder, x), resnet(x.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_fewer_stages_take_what_they_have(weights: Path) -> None:
    encoder = TResUNetEncoder(tresunet_topology(SHALLOW))
    load_backbone(weights, encoder)
    assert len(encoder.stages) == 2


def test_unusable_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    encoder = TResUNetEncoder(FLAT)
    untouched = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(SettingsError, match="missing"):
        load_backbone(tmp_path / "none.safetensors", encoder)
    pickled = tmp_path / "resnet50.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, pickled)
    with pytest.raises(SettingsError, match="not a readable safetensors file"):
        load_backbone(pickled, encoder)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(SettingsError, match="not a readable safetensors file"):
        load_backbone(cut, encoder)
    other = tmp_path / "other.safetensors"
    save_file({"embedding": torch.zeros(3)}, other)
    with pytest.raises(SettingsError, match=r"stages\.0\.0\.weight: found None, expected \(4, 1, 7, 7\)"):
        load_backbone(other, encoder)
    batch_norm = tmp_path / "batch_norm.safetensors"
    save_file({"bn1.running_mean": torch.zeros(64)}, batch_norm)
    with pytest.raises(SettingsError, match="such as timm/resnet50_gn"):
        load_backbone(batch_norm, encoder)
    with pytest.raises(SettingsError, match=r"found \(64, 1, 7, 7\), expected \(4, 1, 7, 7\).* width 64"):
        load_backbone(weights, encoder)
    with pytest.raises(SettingsError, match="use a 2-D network"):
        load_backbone(weights, TResUNetEncoder(THICK_SLICES, ndim=3))
    assert all(torch.equal(value, untouched[name]) for name, value in encoder.state_dict().items())


# --- encoders of classification -------------------------------------------------------------------------------------


def test_an_encoder_reads_its_own_names_and_sums_three_channels(tmp_path: Path) -> None:
    """Of a file for colour images, with a classifier that is left out."""
    torch.manual_seed(0)
    theirs, ours = TimmEncoder("efficientnet_b0", in_channels=3), TimmEncoder("efficientnet_b0")
    tensors = {**theirs.body.state_dict(), "classifier.weight": torch.zeros(10, 1280)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "weights.safetensors")
    load_encoder(tmp_path / "weights.safetensors", ours.body)
    image = torch.randn(1, 1, 64, 64)
    theirs.eval()
    ours.eval()
    for a, b in zip(ours(image), theirs(image.expand(1, 3, 64, 64)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: MedViTEncoder("small"), lambda: TimmEncoder("mobilenetv3_small_050")])
def test_a_checkpoint_of_ours_is_read(make: Callable[[], Encoder], tmp_path: Path) -> None:
    trained, fresh = make(), make()
    path = tmp_path / "checkpoint_final.safetensors"
    save_weights(path, Model(trained, ClassifierHead(trained.channels[-1], 3)))
    load_pretrained(str(path), fresh, [])
    ours = trained.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in fresh.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    small, other = MedViTEncoder("small"), TimmEncoder("efficientnet_b0")
    save_file({name: value.contiguous() for name, value in other.state_dict().items()}, tmp_path / "b0.safetensors")
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(SettingsError, match=r"the pretrained weights do not fit: \d+ of \d+ tensors are missing"):
        load_encoder(tmp_path / "b0.safetensors", small)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    with pytest.raises(SettingsError, match="missing"):
        load_encoder(tmp_path / "none.safetensors", small)
