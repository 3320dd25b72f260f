"""Load published weights into an RF-DETR: its own, or a DINOv2's for the encoder alone, from a safetensors file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.rf_detr import RFDETREncoder, RFDETRHead
from mdkd_auto.networks.weights.fill import read_tensors

if TYPE_CHECKING:  # takes seconds; imported only when weights are read
    from transformers import RfDetrConfig

logger = logging.getLogger(__name__)


def load_rf_detr(path: Path, encoder: RFDETREncoder, heads: Sequence[RFDETRHead] = ()) -> None:
    """Read RF-DETR weights from a safetensors file, by the library's names or those of the published files.

    DINOv2 weights, such as facebook/dinov2-small, fill the encoder alone.

    Position embeddings and patches of another grid are resized; queries beyond ours are dropped. Tensors that do not
    fit, such as heads of other classes, keep their random weights, and one log line reports it. Raises SettingsError if
    the file is missing or unreadable, or if nothing fits.
    """
    found = read_tensors(path)
    if any(name.removeprefix("dinov2.").startswith("embeddings.") for name in found):
        tensors = {_attention_name(name.removeprefix("dinov2.")): value for name, value in found.items()}
        _fill(path, [(encoder.body, _regridded(tensors, encoder.body))])
        return
    tensors = _library_names(found)
    groups = sum(name.startswith("model.enc_output.") and name.endswith(".weight") for name in tensors)
    for name in ("model.reference_point_embed.weight", "model.query_feat.weight"):
        if name in tensors and heads:
            tensors[name] = _first_queries(tensors[name], groups, heads[0].config)
    trunk = "model.backbone.backbone."
    backbone = {name.removeprefix(trunk): value for name, value in tensors.items() if name.startswith(trunk)}
    rest = {name: value for name, value in tensors.items() if not name.startswith(trunk)}
    _fill(path, [(encoder.body, _regridded(backbone, encoder.body)), *((head.detector, rest) for head in heads)])


def _attention_name(name: str) -> str:
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        name = name.replace(f"attention.attention.{theirs}", f"attention.{ours}")
    return name.replace("attention.output.dense", "attention.o_proj")


def _library_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the library's names; published files use those of the original code."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    if not any(name.startswith(("backbone.", "transformer.")) for name in tensors):
        return tensors
    mapping = get_checkpoint_conversion_mapping("RfDetrModel") or []
    changes = [change for change in mapping if isinstance(change, WeightRenaming)]
    renamed: dict[str, Tensor] = {}
    for theirs, value in tensors.items():
        name = theirs
        for change in changes:
            name = change.rename_source_key(name)[0]
        if not name.startswith(("class_embed.", "bbox_embed.")):
            name = f"model.{name}"
        if ".in_proj_" in name:
            start, kind = name.split("in_proj_")
            parts = zip("qkv", value.chunk(3), strict=True)
            renamed |= {f"{start}{letter}_proj.{kind}": chunk.contiguous() for letter, chunk in parts}
        else:
            renamed[name] = value
    return renamed


def _first_queries(value: Tensor, groups: int, config: "RfDetrConfig") -> Tensor:
    """(their groups x queries, C) -> our groups and queries, if there are enough."""
    if groups == 0 or len(value) % groups:
        return value
    ours = value.unflatten(0, (groups, -1))[: config.group_detr, : config.num_queries]
    return ours.flatten(0, 1)


def _regridded(tensors: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Resample position embeddings to our grid, as the library interpolates them, and patches to our size."""
    expected, tensors = body.state_dict(), dict(tensors)
    name = "embeddings.position_embeddings"  # (1, 1 + h x w, C)
    if name in tensors and tensors[name].shape != expected[name].shape:
        first, grid = tensors[name].float().split([1, tensors[name].shape[1] - 1], 1)
        theirs, side = round(grid.shape[1] ** 0.5), round((expected[name].shape[1] - 1) ** 0.5)
        resized = _resized(grid.transpose(1, 2).unflatten(2, (theirs, theirs)), side)
        tensors[name] = torch.cat([first, resized.flatten(2).transpose(1, 2)], 1)
    name = "embeddings.patch_embeddings.projection.weight"  # (C, colours, patch, patch)
    if name in tensors and tensors[name].shape[-1] != expected[name].shape[-1]:
        theirs, side = tensors[name].shape[-1], expected[name].shape[-1]
        tensors[name] = _resized(tensors[name].float(), side) * (theirs / side) ** 2
    return tensors


def _resized(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False, antialias=True)


def _fill(path: Path, parts: list[tuple[nn.Module, dict[str, Tensor]]]) -> None:
    """Load what fits into each module; report the rest."""
    random: list[str] = []
    fitting = 0
    for module, tensors in parts:
        expected = module.state_dict()
        fits = {
            name: tensors[name]
            for name, value in expected.items()
            if name in tensors and tensors[name].shape == value.shape
        }
        module.load_state_dict(fits, strict=False)
        fitting += len(fits)
        random += [name for name in expected if name not in fits]
    if not fitting:
        raise SettingsError(f"{path}: no tensor has a name and shape of this network; give weights of the same network")
    if random:
        shown = ", ".join(random[:4]) + (", ..." if len(random) > 4 else "")
        logger.info(
            "%s: %d tensors read; %d did not fit and keep their random weights: %s", path, fitting, len(random), shown
        )
