"""Refuse a header that promises more than its file can hold, before anything is allocated."""

import math
from collections.abc import Sequence

import psutil
from isal import igzip_lib

from mdkd_auto.core.errors import ImageError

MOST_EXPANSION = 1032  # most bytes deflate can expand one byte to
COPIES = 2  # copies of the voxels in memory while reading
BYTES_A_VOXEL = 12  # per voxel of the larger of the image and its resampled copy, while resampling
MOST_GROWTH = 512  # most voxels resampling may make of one: coarser images hold no usable detail
SPARE_BYTES = 1 << 20  # after the voxels; more than this plus the promised size indicates a wrong header
DAMAGED: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub says it were an instance


def check_promise(promised: int, most: int | None = None) -> None:
    """Raise ImageError if a header promises more bytes than its file can hold or than fit into memory."""
    if most is not None and promised > most:
        message = f"it is truncated: {most} bytes at most where its header promises {promised}; copy it anew"
        raise ImageError(message, "truncated")
    if COPIES * promised > psutil.virtual_memory().total:
        raise ImageError(f"it takes {COPIES * promised / 1e9:.0f} GB of memory, more than this machine has")


def check_resampling(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> None:
    """Raise ImageError if resampling to ``target_mm`` needs too many voxels.

    The limits are memory, and ``MOST_GROWTH`` voxels per original voxel.
    """
    needed = BYTES_A_VOXEL * math.prod(shape)
    growth = math.prod(old / new for old, new in zip(spacing_mm, target_mm, strict=True))
    if needed > psutil.virtual_memory().total:
        reason = f"{needed / 1e9:.3g} GB, more than this machine's memory"
    elif growth > MOST_GROWTH:
        reason = f"{growth:.3g} times as many as it has, more than the {MOST_GROWTH} allowed"
    else:
        return
    sizes, old, new = (" x ".join(f"{value:.5g}" for value in values) for values in (shape, spacing_mm, target_mm))
    message = f"from its spacing {old} mm to the plan's {new} mm it becomes {sizes} voxels: {reason}"
    raise ImageError(f"{message}; check its voxel size and unit", "spacing-unusual")


class Rest:
    """Check the bytes after the promised ones, as they are read."""

    def __init__(self, promised: int, of_slice: int) -> None:
        self.promised, self.of_slice = promised, of_slice  # bytes; of_slice is 0 if unknown
        self.count, self.blank = 0, True

    def add(self, piece: bytes) -> None:
        """Raise ImageError if the extra bytes prove the header wrong: a slice with non-zero bytes, or far too many."""
        self.count += len(piece)
        self.blank = self.blank and not piece.strip(b"\0")
        if self.count > SPARE_BYTES + self.promised or (not self.blank and self.count >= self.of_slice > 0):
            message = f"its header promises {self.promised} bytes, but {self.count} or more follow these"
            raise ImageError(f"{message}: the header is wrong, in its sizes or type; correct it, or export anew")
