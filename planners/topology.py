"""Derive patch and UNet topology from spacing: which axes to pool, how often, with which kernels (nnU-Net's rules)."""

import math
from collections.abc import Sequence

from mdkd_auto.core.records import Topology

MIN_EDGE_TO_POOL = 8  # voxels: the bottleneck keeps at least 4
ANISOTROPY_LIMIT = 2.0  # an axis coarser than the finest by this factor is neither pooled nor convolved across
BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}  # by number of axes
INITIAL_VOXELS = {2: 2048**2, 3: 256**3}


def initial_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> tuple[int, ...]:
    """Return a cube in millimetres with 256^3 (2-D: 2048^2) voxels, clipped to the median shape."""
    axes = len(spacing_mm)
    edge = (INITIAL_VOXELS[axes] * math.prod(spacing_mm)) ** (1 / axes)  # mm
    sizes = [edge / value for value in spacing_mm]
    return tuple(max(1, min(round(size), round(limit))) for size, limit in zip(sizes, median_shape, strict=True))


def plan_topology(patch_size: Sequence[int], spacing_mm: Sequence[float]) -> Topology:
    """Pool each axis that has 8 voxels and is at most 2 x coarser than the finest axis that can still be pooled."""
    size = [float(voxels) for voxels in patch_size]
    spacing = list(spacing_mm)
    axes = range(len(size))
    kernel = [1] * len(size)
    strides, kernels = [(1,) * len(size)], []
    while True:
        kernel = [3 if kernel[a] == 3 or spacing[a] / min(spacing) < ANISOTROPY_LIMIT else 1 for a in axes]
        kernels.append(tuple(kernel))
        poolable = [a for a in axes if size[a] >= MIN_EDGE_TO_POOL]
        if not poolable:
            break
        finest = min(spacing[a] for a in poolable)
        stride = tuple(2 if a in poolable and spacing[a] / finest < ANISOTROPY_LIMIT else 1 for a in axes)
        strides.append(stride)
        size = [math.ceil(size[a] / stride[a]) for a in axes]
        spacing = [spacing[a] * stride[a] for a in axes]
    most = MAX_FEATURES[len(size)]
    features = tuple(min(most, BASE_FEATURES * 2**stage) for stage in range(len(strides)))
    return Topology(features=features, kernel_sizes=tuple(kernels), strides=tuple(strides))


def total_stride(topology: Topology) -> tuple[int, ...]:
    """Input voxels per bottleneck voxel, along each axis."""
    return tuple(math.prod(steps) for steps in zip(*topology.strides, strict=True))


def pad_to_multiple(patch_size: Sequence[int], multiple: Sequence[int]) -> tuple[int, ...]:
    """Round up to the next size that pooling divides evenly."""
    return tuple(math.ceil(size / step) * step for size, step in zip(patch_size, multiple, strict=True))
