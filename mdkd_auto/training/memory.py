"""Count the numbers an objective keeps for the backward pass, without computing anything."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.training.interfaces import Objective

_BYTES = 4  # bytes per number in single precision


def kept_numbers(objective: Objective, patch_size: Sequence[int]) -> float:
    """Count the numbers kept between forward and backward pass of an update, per sample of the batch.

    Feature maps and what the losses keep of them count; weights do not depend on the batch and are left out. The
    objective, on the CPU, is left in training mode.
    """
    objective.trained().train()
    bytes_of_1, bytes_of_2 = (_kept_bytes(objective, patch_size, size) for size in (1, 2))  # samples per data set
    share = max(objective.batch_fractions.values())  # largest fraction of a batch held by one data set
    return (bytes_of_2 - bytes_of_1) * share / _BYTES


def _kept_bytes(objective: Objective, patch_size: Sequence[int], size: int) -> int:
    """Peak bytes kept; losses that are back-propagated in turn do not add up."""
    kept: dict[int, Tensor] = {}  # by storage; references to the tensors keep storage addresses unique

    def keep(tensor: Tensor) -> Tensor:
        kept[int(tensor.untyped_storage()._cdata)] = tensor
        return tensor

    most = 0
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        batches = {dataset: _batch(size, patch_size) for dataset in objective.batch_fractions}
        for _ in objective.losses(batches, 1.0):
            most = max(most, sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
            kept.clear()
    return most


def _batch(size: int, patch_size: Sequence[int]) -> Batch:
    labels = torch.empty(size, *patch_size, dtype=torch.int16)
    return Batch(torch.empty(size, 1, *patch_size), labels, ("",) * size)
