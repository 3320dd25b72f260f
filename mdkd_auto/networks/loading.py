"""Which weights of a file, or of timm, each kind of encoder begins with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mdkd_auto.networks.faster_rcnn import ResNetEncoder
from mdkd_auto.networks.medvit import MedViTEncoder
from mdkd_auto.networks.model import Encoder
from mdkd_auto.networks.pretrained import load_backbone, load_encoder
from mdkd_auto.networks.rf_detr import RFDETREncoder, RFDETRHead
from mdkd_auto.networks.rf_detr_weights import load_rf_detr
from mdkd_auto.networks.timm_encoder import TimmEncoder
from mdkd_auto.networks.tresunet import TResUNetEncoder
from mdkd_auto.settings import FROM_TIMM


def load_pretrained(source: str, encoder: Encoder, heads: Sequence[nn.Module]) -> None:
    """Begin with the weights of a file, or (``timm``) with those that timm fetches. Raises SettingsError.

    A joint encoder is made of trained ones, and the plan's UNet has none. RF-DETR's weights fill its heads too.
    """
    if (load := LOADERS.get(type(encoder))) is not None:
        load(source, encoder, heads)


def _from_timm(source: str, encoder: TimmEncoder, heads: Sequence[nn.Module]) -> None:
    if source == FROM_TIMM:
        encoder.load_state_dict(TimmEncoder(encoder.name, download=True).state_dict())
    else:
        load_encoder(Path(source), encoder.body)


def _rf_detr(source: str, encoder: RFDETREncoder, heads: Sequence[nn.Module]) -> None:
    load_rf_detr(Path(source), encoder, [head for head in heads if isinstance(head, RFDETRHead)])


LOADERS: dict[type[Encoder], Callable[[str, Any, Sequence[nn.Module]], None]] = {
    TResUNetEncoder: lambda source, encoder, heads: load_backbone(Path(source), encoder),
    TimmEncoder: _from_timm,
    RFDETREncoder: _rf_detr,
    MedViTEncoder: lambda source, encoder, heads: load_encoder(Path(source), encoder),
    ResNetEncoder: lambda source, encoder, heads: load_encoder(Path(source), encoder.body),
}
