"""Weights that a library fetches; nothing is fetched here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.settings import ONLINE
from mdkd_auto.networks.faster_rcnn import ResNetEncoder
from mdkd_auto.networks.medvit import MedViTEncoder
from mdkd_auto.networks.rf_detr import RFDETREncoder
from mdkd_auto.networks.timm_encoder import TimmEncoder
from mdkd_auto.networks.unet import UNetEncoder
from mdkd_auto.networks.weights import load as loading
from mdkd_auto.networks.weights.load import load_pretrained
from mdkd_auto.planners.topology import plan_topology


@pytest.mark.parametrize(("name", "of_timm"), loading.TIMMS.items())
def test_a_resnet_begins_with_timms(name: str, of_timm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tensors by the same names; a grey image takes the sum over the colours."""
    torch.manual_seed(1)
    library = TimmEncoder(of_timm, in_channels=3)
    asked: list[Any] = []

    def fetched(timms_name: str, **options: Any) -> TimmEncoder:
        asked.append((timms_name, options))
        return library

    encoder = ResNetEncoder(name)
    monkeypatch.setattr(loading, "TimmEncoder", fetched)
    load_pretrained(ONLINE, encoder, [])
    assert asked == [(of_timm, {"in_channels": 3, "download": True})]
    grey = torch.randn(2, 1, 64, 64)
    ours, theirs = encoder.eval()(grey), library.eval()(grey.expand(-1, 3, -1, -1))
    for one, other in zip(ours, theirs[-4:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_rf_detr_begins_with_the_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, fresh = RFDETREncoder("rfdetr_tiny", 64), RFDETREncoder("rfdetr_tiny", 64)
    prefix = "model.backbone.backbone."
    save_file(
        {f"{prefix}{name}": value.contiguous() for name, value in trained.body.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    asked: list[tuple[str, str]] = []

    def cached_file(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    monkeypatch.setitem(loading.REPOSITORIES, "rfdetr_tiny", "Roboflow/rf-detr-tiny")
    load_pretrained(ONLINE, fresh, [])
    assert asked == [("Roboflow/rf-detr-tiny", "model.safetensors")]
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_what_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repository: str, name: str) -> str:
        raise OSError("We couldn't connect to the hub.\nCheck your connection")

    monkeypatch.setattr("transformers.utils.hub.cached_file", offline)
    monkeypatch.setitem(loading.REPOSITORIES, "rfdetr_tiny", "Roboflow/rf-detr-tiny")
    words = r"could not fetch the weights of Roboflow/rf-detr-tiny \(We couldn't connect to the hub\.\); give them as a"
    with pytest.raises(SettingsError, match=words):
        load_pretrained(ONLINE, RFDETREncoder("rfdetr_tiny", 64), [])
    with pytest.raises(SettingsError, match="'faster_rcnn_small': has no published weights"):
        load_pretrained(ONLINE, ResNetEncoder("faster_rcnn_small"), [])
    with pytest.raises(SettingsError, match="no library has weights for this network"):
        load_pretrained(ONLINE, MedViTEncoder("small"), [])


def test_a_unet_keeps_its_random_weights() -> None:
    encoder: nn.Module = UNetEncoder(plan_topology((64, 64), (1.0, 1.0)), 1, 2)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    load_pretrained(ONLINE, encoder, [])  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
