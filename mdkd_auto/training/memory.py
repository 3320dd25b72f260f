"""How many numbers an objective's networks keep for the backward pass, counted without computing anything."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mdkd_auto.data.sampling import Batch
from mdkd_auto.training.interfaces import Objective

_META = torch.device("meta")
_SAMPLES = 2  # of a batch: one of each data set for a source teacher
_BYTES = 4  # of a number in single precision


def kept_numbers(objective: Objective, patch_size: Sequence[int]) -> float:
    """Numbers that are kept between the forward and the backward pass of an update, a sample of the batch.

    Feature maps and what losses keep of them, once each; no weights. The objective stays as it is. Losses that are
    back-propagated in turn do not add up: the largest counts.
    """
    shadow = _shadow(objective)
    weights = {_storage(tensor) for module in _modules(shadow) for tensor in _tensors(module)}
    batches = {dataset: _batch(max(1, round(_SAMPLES * share)), patch_size) for dataset, share in shadow.shares.items()}
    kept: dict[int, Tensor] = {}  # by storage; holding on to the tensors keeps the storages apart

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    most = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for _ in shadow.losses(batches, 1.0):
            most = max(most, sum(t.untyped_storage().nbytes() for name, t in kept.items() if name not in weights))
            kept.clear()
    return most / _BYTES / _SAMPLES


def _shadow(objective: Objective) -> Objective:
    """A copy whose tensors have shapes but no values."""
    memo: dict[int, object] = {}
    for module in _modules(objective):
        for tensor in _tensors(module):
            empty: Tensor = torch.empty_like(tensor, device=_META, requires_grad=False)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    shadow = copy.deepcopy(objective, memo)
    shadow.trained().train()
    return shadow


def _modules(objective: Objective) -> Iterator[nn.Module]:
    return (value for value in vars(objective).values() if isinstance(value, nn.Module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _batch(size: int, patch_size: Sequence[int]) -> Batch:
    images = torch.empty(size, 1, *patch_size, device=_META)
    labels = torch.empty(size, *patch_size, device=_META, dtype=torch.int16)
    return Batch(images, labels, ("",) * size)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
