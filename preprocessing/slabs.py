"""Resample probabilities slab by slab: the whole volume is never in memory."""

from collections.abc import Iterable, Iterator

import numpy as np

from mdkd_auto.core.records import IntTriple
from mdkd_auto.preprocessing.resample import Floats, axis_kinds, interpolation, multiply_axes

PLANES = 16  # planes per output slab


def resample_slabs(
    slabs: Iterable[Floats], before: IntTriple, after: IntTriple, coarse: int | None
) -> Iterator[Floats]:
    """Resample slabs (K, n, y, x) of a ``before``-shaped volume (z, y, x), in order, to slabs of shape ``after``.

    Linear along every axis except ``coarse``, which is nearest neighbour: equals ``resample`` on the whole volume.
    Raises ValueError if the slabs do not add up to the volume.
    """
    kinds = axis_kinds("linear", coarse)
    along = interpolation(before[0], after[0], kinds[0])
    across = [
        None if old == new else interpolation(old, new, kind)
        for old, new, kind in zip(before[1:], after[1:], kinds[1:], strict=True)
    ]
    firsts, lasts = along.indices[along.indptr[:-1]], along.indices[along.indptr[1:] - 1]  # input planes per output
    kept: Floats | None = None
    begin, done = 0, 0  # index of the first plane kept; planes done
    for slab in slabs:
        if tuple(slab.shape[2:]) != before[1:]:
            raise ValueError(f"A slab {slab.shape} is no part of a volume {before}")
        kept = slab if kept is None else np.concatenate([kept, slab], axis=1)
        ready = int(np.searchsorted(lasts, begin + kept.shape[1]))
        for start in range(done, ready, PLANES):
            stop = min(ready, start + PLANES)
            first, end = firsts[start], lasts[stop - 1] + 1
            matrices = [along[start:stop, first:end], *across]
            yield np.stack([multiply_axes(channel[first - begin : end - begin], matrices) for channel in kept])
        done = ready
        spent = min(kept.shape[1], firsts[done] - begin if done < after[0] else before[0])  # planes no longer needed
        begin, kept = begin + spent, kept[:, spent:]
    if done < after[0]:
        raise ValueError(f"The slabs are only a part of a volume {before}")
