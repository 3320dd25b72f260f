"""Read pretrained weights from a safetensors file, for a TResUNet's residual stages and for classification encoders.

Nothing is downloaded or unpickled here.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.files import raise_if_refused
from mdkd_auto.networks.tresunet import FULL_WIDTH, TResUNetEncoder

_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(weight|bias)")  # tensor names of a ResNet
_OURS = ("encoder.body.", "encoder.")  # prefixes in a checkpoint; a library's network is the ``body``


def load_backbone(path: Path, encoder: TResUNetEncoder) -> None:
    """Read a ResNet-50 with group normalisation (timm's resnet50_gn) from a safetensors file into the stages.

    A single input channel gets the sum over the file's three. Raises SettingsError if the file is missing, unreadable
    or does not fit.
    """
    tensors = {_place(name): value for name, value in read_tensors(path, batch_norm=False).items()}
    expected = encoder.stages.state_dict()
    first = tensors.get(_place("conv1.weight"))
    if first is not None and expected[_place("conv1.weight")].shape[1] == 1:
        tensors[_place("conv1.weight")] = first.float().sum(1, keepdim=True)  # (64, 3, 7, 7) -> (64, 1, 7, 7)
    shapes = {name: tuple(tensors[name].shape) if name in tensors else None for name in expected}
    differing = [name for name, value in expected.items() if shapes[name] != tuple(value.shape)]
    if differing:
        name = differing[0]
        raise SettingsError(
            f"{path}: the pretrained weights do not fit: {len(differing)} tensors differ, the first is stages.{name}: "
            f"found {shapes[name]}, expected {tuple(expected[name].shape)}; give those of a ResNet-50 and use a 2-D "
            f"network of width {FULL_WIDTH}"
        )
    encoder.stages.load_state_dict({name: tensors[name] for name in expected})


def load_encoder(path: Path, body: nn.Module) -> None:
    """Read an encoder's weights by name from a safetensors file; anything else in it (a classifier) is ignored.

    Our checkpoints prefix names with ``encoder.``. Raises SettingsError if the file is missing, unreadable or does not
    fit.
    """
    tensors = read_tensors(path)
    if not set(tensors) & set(body.state_dict()):
        prefix = next((candidate for candidate in _OURS if any(name.startswith(candidate) for name in tensors)), "")
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    fill_encoder(tensors, body, str(path))


def fill_encoder(weights: Mapping[str, Tensor], body: nn.Module, source: str) -> None:
    """Copy weights by name into an encoder. Raises SettingsError if they do not fit.

    A first convolution with one input channel gets the sum over the three given.
    """
    tensors, expected = dict(weights), body.state_dict()
    for name, value in expected.items():
        tensor = tensors.get(name)
        if tensor is not None and tensor.ndim == value.ndim > 2 and (tensor.shape[1], value.shape[1]) == (3, 1):
            tensors[name] = tensor.float().sum(1, keepdim=True)  # (C, 3, k, k) -> (C, 1, k, k)
    wrong = [name for name, value in expected.items() if name not in tensors or tensors[name].shape != value.shape]
    if wrong:
        tensor = tensors.get(wrong[0])
        shown = "nothing" if tensor is None else tuple(tensor.shape)
        raise SettingsError(
            f"{source}: the pretrained weights do not fit: {len(wrong)} of {len(expected)} tensors are missing or "
            f"differ, the first is {wrong[0]}: found {shown}, expected {tuple(expected[wrong[0]].shape)}; give those "
            "of the same network"
        )
    body.load_state_dict({name: tensors[name] for name in expected})


def _place(name: str) -> str:
    """Map a ResNet tensor's name to its name in ``TResUNetEncoder.stages``; other names are returned unchanged."""
    if name.startswith(("conv1.", "bn1.")):
        return name.replace("conv1.", "0.0.").replace("bn1.", "0.1.")
    block = _BLOCK.fullmatch(name)
    if block is None:
        return name
    stage, number, kind, index, tensor = block.groups()
    layer = int(index) - 1
    layer_name = {"conv": f"layers.{layer}.0", "bn": f"layers.{layer}.1", "downsample.": f"shortcut.{index}"}[kind]
    return f"{stage}.{int(number) + 1}.{layer_name}.{tensor}"


def read_tensors(path: Path, batch_norm: bool = True) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file by name.

    Raises SettingsError if the file is missing or unreadable, or holds batch normalisation and ``batch_norm`` is False.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: the file of pretrained weights is missing")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise_if_refused(path, error)
        raise SettingsError(f"{path}: not a readable safetensors file ({error}); no other format is read") from None
    if not batch_norm and any(name.endswith("running_mean") for name in tensors):
        raise SettingsError(
            f"{path}: these weights belong to batch normalisation; give those of a ResNet-50 with group normalisation, "
            "such as timm/resnet50_gn.a1h_in1k"
        )
    return tensors
