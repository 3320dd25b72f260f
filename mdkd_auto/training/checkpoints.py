"""Write weights and training state atomically to safetensors files; nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mdkd_auto.core.errors import MdkdError, TrainingError
from mdkd_auto.core.files import raise_if_refused, write_bytes
from mdkd_auto.core.strict_json import parse_json

COPY_AGAIN = "Copy the run folder again; or delete it and run the training command again"  # remedy for an unusable run
_STATE = "training_state"
_BEGIN_AGAIN = "delete it and run the training command again: the job begins anew"
_OPTIMISER = "optimiser."
_NETWORK = "network."


def save_weights(path: Path, model: nn.Module) -> None:
    """Write all weights of ``model``."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    _save(path, tensors, None)


def load_weights(path: Path, model: nn.Module) -> None:
    """Read weights into ``model``.

    Raises TrainingError if the file is missing, damaged or does not fit, ReadError if the system cannot read it.
    """
    try:
        tensors, _ = _read(path)
        _check_fit(path, tensors, model)
    except TrainingError as error:
        raise TrainingError(f"{error}. {COPY_AGAIN}") from None
    model.load_state_dict(tensors)


def save_training(path: Path, trained: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write everything an exact resume needs: trained weights, optimiser tensors, and ``state`` (JSON)."""
    tensors = {_NETWORK + name: value for name, value in trained.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors.update({f"{_OPTIMISER}{index}.{name}": value for name, value in entry.items()})
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    _save(path, tensors, {_STATE: json.dumps(state)})


def load_training(path: Path, trained: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore a :func:`save_training` file and return its ``state``. Raises TrainingError as :func:`load_weights`."""
    try:
        tensors, metadata = _read(path)
    except TrainingError as error:
        raise TrainingError(f"{error}; {_BEGIN_AGAIN}") from None
    weights = {name.removeprefix(_NETWORK): value for name, value in tensors.items() if name.startswith(_NETWORK)}
    _check_fit(path, weights, trained)
    try:
        state: dict[str, Any] = parse_json(metadata[_STATE].encode(), "its training state", any_number=True)
        full = _optimiser_state(tensors, optimiser, state["learning_rates"])
        optimiser.load_state_dict(full)
    except (MdkdError, LookupError, TypeError, ValueError, AttributeError) as error:
        message = f"its training state is damaged ({type(error).__name__}: {error}); {_BEGIN_AGAIN}"
        raise TrainingError(f"{path}: {message}") from None
    trained.load_state_dict(weights)
    return state


def _optimiser_state(
    tensors: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer, rates: list[float]
) -> dict[str, Any]:
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMISER):
            index, key = name.removeprefix(_OPTIMISER).split(".", 1)
            entries.setdefault(int(index), {})[key] = value
    full = optimiser.state_dict()
    full["state"] = entries
    for group, rate in zip(full["param_groups"], rates, strict=True):
        group["lr"] = rate
    return full


def _check_fit(path: Path, tensors: dict[str, torch.Tensor], model: nn.Module) -> None:
    expected = {name: _layout(value) for name, value in model.state_dict().items()}
    layouts = {name: _layout(value) for name, value in tensors.items()}
    if expected != layouts:
        differing = sorted(name for name in expected.keys() | layouts.keys() if expected.get(name) != layouts.get(name))
        name = differing[0]
        raise TrainingError(
            f"{path}: the weights do not fit the network: {len(differing)} "
            f"{'tensor differs' if len(differing) == 1 else 'tensors differ'}, the first is {name[:100]}: "
            f"found {layouts.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        )


def _layout(tensor: torch.Tensor) -> str:
    """Shape and dtype, e.g. (32, 1, 3, 3) float32."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    write_bytes(path, save(tensors, metadata))  # save_file would write its own temporary file with its own permissions


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise TrainingError(f"{path}: the weights file is missing")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise_if_refused(path, error)
        raise TrainingError(f"{path}: unreadable weights ({error})") from None
