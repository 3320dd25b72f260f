"""Choose the initial weights of each kind of encoder: from a file, or fetched by its library."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.settings import ONLINE, Architecture
from mdkd_auto.networks.faster_rcnn import ResNetEncoder
from mdkd_auto.networks.medvit import MedViTEncoder
from mdkd_auto.networks.model import Encoder
from mdkd_auto.networks.rf_detr import RFDETREncoder, RFDETRHead
from mdkd_auto.networks.timm_encoder import TimmEncoder
from mdkd_auto.networks.tresunet import TResUNetEncoder
from mdkd_auto.networks.weights.fill import fill_encoder, load_backbone, load_encoder
from mdkd_auto.networks.weights.rf_detr import load_rf_detr

TIMMS = {"faster_rcnn_resnet50": "resnet50", "faster_rcnn_resnet18": "resnet18"}  # equal tensors under equal names
REPOSITORIES = {
    size: f"Roboflow/rf-detr-{size.removeprefix('rfdetr_')}" for size in ("rfdetr_nano", "rfdetr_small", "rfdetr_base")
}


def takes_pretrained(architecture: Architecture) -> bool:
    """Whether a kind of network can start from pretrained weights; the plan's UNet has a custom shape."""
    return architecture != "unet"


def load_pretrained(source: str, encoder: Encoder, heads: Sequence[nn.Module]) -> None:
    """Load the weights of a safetensors file, or (``online``) those that the library fetches.

    A joint encoder consists of trained ones, and the plan's UNet has no published weights. RF-DETR's weights fill its
    heads too. Raises SettingsError if weights do not fit or cannot be fetched.
    """
    load, fetch = LOADERS.get(type(encoder), (None, None))
    if load is None:
        return
    if source != ONLINE:
        load(Path(source), encoder, heads)
    elif fetch is not None:
        fetch(encoder, heads)
    else:
        raise SettingsError("pretrained: no library has weights for this network; give them as a safetensors file")


def _timm(encoder: TimmEncoder, heads: Sequence[nn.Module]) -> None:
    encoder.load_state_dict(TimmEncoder(encoder.name, download=True).state_dict())


def _resnet(encoder: ResNetEncoder, heads: Sequence[nn.Module]) -> None:
    """Load timm's weights, which come as safetensors; torchvision's would need unpickling."""
    weights = TimmEncoder(_published(TIMMS, encoder.name), in_channels=3, download=True).body.state_dict()
    fill_encoder(weights, encoder.body, f"timm's {TIMMS[encoder.name]}")


def _rf_detr(path: Path, encoder: RFDETREncoder, heads: Sequence[nn.Module]) -> None:
    load_rf_detr(path, encoder, [head for head in heads if isinstance(head, RFDETRHead)])


def _published_rf_detr(encoder: RFDETREncoder, heads: Sequence[nn.Module]) -> None:
    from transformers.utils.hub import cached_file

    repository = _published(REPOSITORIES, encoder.size)
    try:
        path = cached_file(repository, "model.safetensors")
    except OSError as error:
        reason = str(error).split("\n", 1)[0]
        raise SettingsError(
            f"network {encoder.size!r}: transformers could not fetch the weights of {repository} ({reason}); give "
            "them as a safetensors file"
        ) from None
    _rf_detr(Path(str(path)), encoder, heads)


def _published(names: dict[str, str], network: str) -> str:
    if network not in names:
        raise SettingsError(f"network {network!r}: has no published weights; leave pretrained out, or give a file")
    return names[network]


Load = Callable[[Path, Any, Sequence[nn.Module]], None]
Fetch = Callable[[Any, Sequence[nn.Module]], None]
LOADERS: dict[type[Encoder], tuple[Load, Fetch | None]] = {
    TResUNetEncoder: (lambda path, encoder, heads: load_backbone(path, encoder), None),
    TimmEncoder: (lambda path, encoder, heads: load_encoder(path, encoder.body), _timm),
    RFDETREncoder: (_rf_detr, _published_rf_detr),
    MedViTEncoder: (lambda path, encoder, heads: load_encoder(path, encoder), None),
    ResNetEncoder: (lambda path, encoder, heads: load_encoder(path, encoder.body), _resnet),
}
