"""Augment a whole batch on its own device: random numbers are drawn first, then applied.

Transforms, order, probabilities and ranges are nnU-Net v2's for one input channel (rotation, scaling, noise, blur,
brightness, contrast, low resolution, gamma, mirroring); rotation and scaling work in millimetres. ``apply`` never
synchronises with the device: all decisions are drawn on the host.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROTATION_PROBABILITY = 0.2
VOLUME_DEGREES, PLANE_DEGREES, LONG_PLANE_DEGREES = 30.0, 180.0, 15.0
UPRIGHT_DEGREES = 15.0  # largest rotation of a whole image
LONG_PLANE = 1.5  # ratio of patch sides above which rotation is limited
SCALE_PROBABILITY, SHRINK_RANGE = 0.2, (0.7, 1.4)
NOISE_PROBABILITY, NOISE_STD_RANGE = 0.1, (0.0, 0.1)
BLUR_PROBABILITY, BLUR_SIGMA_VOXELS, BLUR_REACH = 0.1, (0.5, 1.0), 3  # 0.2, times 0.5 for the channel
BRIGHTNESS_PROBABILITY, BRIGHTNESS_RANGE = 0.15, (0.75, 1.25)
CONTRAST_PROBABILITY, CONTRAST_RANGE = 0.15, (0.75, 1.25)
LOW_RESOLUTION_PROBABILITY, LOW_RESOLUTION_RANGE = 0.125, (0.5, 1.0)  # 0.25, times 0.5 for the channel
GAMMA_PROBABILITY, INVERTED_GAMMA_PROBABILITY, GAMMA_RANGE = 0.3, 0.1, (0.7, 1.5)
ANISOTROPY_FOR_IN_PLANE = 3.0  # patch spacing ratio above which rotation, scaling and low resolution stay in plane
OUTSIDE = -1  # label of voxels outside the source
SMALLEST = 1e-7  # avoids division by zero for a constant image


class Draw(NamedTuple):
    """The random numbers for a batch of B samples with D axes. NaN: the transform is not applied to this sample."""

    turns: Floats  # (B, number of rotation planes), -1 to 1: fraction of the largest angle, see largest_degrees
    scale: Floats  # (B,) object size after / before
    mirror: NDArray[np.bool_]  # (B, D)
    noise_std: Floats
    blur_sigma: Floats  # (B, D) voxels
    brightness: Floats
    contrast: Floats
    zoom: Floats
    gamma: Floats
    inverted_gamma: Floats
    noise_seed: int


class Source(NamedTuple):
    """The voxels a rotated or scaled sample is made from: its patch and a margin around it."""

    sample: int  # index in the batch
    image: torch.Tensor  # (*S) float32
    label: torch.Tensor  # (*S)
    values: tuple[int, ...]  # label values, ascending
    shift: tuple[float, ...]  # voxels from the centre of this image to the centre of the patch


def draw(rng: np.random.Generator, batch: int, dimensions: int) -> Draw:
    """Draw every random number for a batch."""

    def sometimes(probability: float, values: Floats) -> Floats:
        values[rng.random(batch) >= probability] = np.nan
        return values

    def uniform(low: float, high: float, *shape: int) -> Floats:
        return rng.uniform(low, high, (batch, *shape))

    def around_one(low: float, high: float) -> Floats:
        """Draw values below and above 1 equally often."""
        return np.where(rng.random(batch) < 0.5, rng.uniform(low, 1, batch), rng.uniform(1, high, batch))

    return Draw(
        turns=sometimes(ROTATION_PROBABILITY, uniform(-1, 1, 1 if dimensions == 2 else 3)),
        scale=1 / sometimes(SCALE_PROBABILITY, uniform(*SHRINK_RANGE)),
        mirror=rng.random((batch, dimensions)) < 0.5,
        noise_std=sometimes(NOISE_PROBABILITY, uniform(*NOISE_STD_RANGE)),
        blur_sigma=sometimes(BLUR_PROBABILITY, uniform(*BLUR_SIGMA_VOXELS, dimensions)),
        brightness=sometimes(BRIGHTNESS_PROBABILITY, around_one(*BRIGHTNESS_RANGE)),
        contrast=sometimes(CONTRAST_PROBABILITY, around_one(*CONTRAST_RANGE)),
        zoom=sometimes(LOW_RESOLUTION_PROBABILITY, uniform(*LOW_RESOLUTION_RANGE)),
        gamma=sometimes(GAMMA_PROBABILITY, around_one(*GAMMA_RANGE)),
        inverted_gamma=sometimes(INVERTED_GAMMA_PROBABILITY, around_one(*GAMMA_RANGE)),
        noise_seed=int(rng.integers(2**31)),
    )


def upright(drawn: Draw) -> Draw:
    """Limit a draw to what keeps whole images upright: rotations up to 15 degrees, mirroring left to right only.

    The rotations that suit a square patch, up to 180 degrees, would lay a chest on its side or upside down.
    """
    mirror = drawn.mirror.copy()
    mirror[:, :-1] = False
    most = PLANE_DEGREES if mirror.shape[1] == 2 else VOLUME_DEGREES
    return drawn._replace(turns=drawn.turns * (UPRIGHT_DEGREES / most), mirror=mirror)


def apply(
    images: torch.Tensor,
    labels: torch.Tensor,
    drawn: Draw,
    spacing_mm: tuple[float, ...],
    sources: Sequence[Source] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images (B, 1, *S) and labels (B, *S); voxels from outside the source get label -1.

    A rotated or scaled sample is made from its entry in ``sources`` (see PatchSampler), or else from its patch alone,
    which synchronises with the device.
    """
    images, labels = images.clone(), labels.clone()
    given = {source.sample: source for source in sources}
    for index, matrix in enumerate(affine_maps(drawn, images.shape[2:], spacing_mm)):
        if matrix is not None:
            source = given[index] if index in given else _of_patch(index, images[index, 0], labels[index])
            images[index, 0], labels[index] = _moved(source, matrix, images.shape[2:])
    _change_intensities(images, drawn, turns_in_plane(spacing_mm))
    flips = [[int(axis) - drawn.mirror.shape[1] for axis in np.flatnonzero(row)] for row in drawn.mirror]
    return (
        torch.stack([image.flip(axes) for image, axes in zip(images, flips, strict=True)]),
        torch.stack([label.flip(axes) for label, axes in zip(labels, flips, strict=True)]),
    )


# --- geometry --------------------------------------------------------------------------------------------------------


def affine_maps(drawn: Draw, size: Sequence[int], spacing_mm: Sequence[float]) -> list[Floats | None]:
    """Return per sample the matrix (D, D) from output to input coordinates, None if it is not rotated or scaled.

    Coordinates are ([z,] y, x) in voxels from the centre of the patch.
    """
    in_plane, step = turns_in_plane(spacing_mm), np.asarray(spacing_mm)
    dimensions = len(size)
    first = 1 if in_plane else 0
    planes = [(i, j) for i in range(first, dimensions) for j in range(i + 1, dimensions)]
    most = math.radians(largest_degrees(size, in_plane))
    maps: list[Floats | None] = []
    for turns, scale in zip(drawn.turns, drawn.scale, strict=True):
        if math.isnan(turns[0]) and math.isnan(scale):
            maps.append(None)
            continue
        matrix = np.eye(dimensions)
        if not math.isnan(turns[0]):
            for plane, turn in zip(planes, turns, strict=False):
                rotation = np.eye(dimensions)
                cosine, sine = math.cos(turn * most), math.sin(turn * most)
                rotation[np.ix_(plane, plane)] = [[cosine, -sine], [sine, cosine]]
                matrix = matrix @ rotation
        if not math.isnan(scale):
            matrix[first:] /= scale
        maps.append(matrix * step / step[:, None])
    return maps


def turns_in_plane(spacing_mm: Sequence[float]) -> bool:
    """Whether slices are so thick that rotation and scaling stay in plane."""
    return len(spacing_mm) == 3 and max(spacing_mm) / min(spacing_mm) > ANISOTROPY_FOR_IN_PLANE


def largest_degrees(size: Sequence[int], in_plane: bool) -> float:
    """Return the largest rotation angle for a patch."""
    if len(size) == 3:
        return PLANE_DEGREES if in_plane else VOLUME_DEGREES
    return PLANE_DEGREES if max(size) <= LONG_PLANE * min(size) else LONG_PLANE_DEGREES


def _of_patch(sample: int, image: torch.Tensor, label: torch.Tensor) -> Source:
    return Source(sample, image, label, tuple(label.unique().tolist()), (0.0,) * label.ndim)


def _moved(source: Source, matrix: Floats, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample image (*S) linearly, and label (*S) by the argmax of linearly resampled indicators, one per value."""
    grid = _grid(matrix, source.shift, size, source.image)
    indicators = [(source.label == value).to(source.image.dtype) for value in source.values[1:]]
    channels = torch.stack([source.image, *indicators])[None]
    image, *shares = F.grid_sample(channels, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    label = torch.full_like(image, source.values[0], dtype=source.label.dtype)
    if shares:
        best = 1 - torch.stack(shares).sum(0)  # share of the lowest value
        for value, share in zip(source.values[1:], shares, strict=True):
            label.masked_fill_(share > best, value)
            best = torch.maximum(best, share)
    return image, label.masked_fill_((grid[0].abs() > 1).any(-1), OUTSIDE)


def _grid(matrix: Floats, shift: Sequence[float], size: Sequence[int], image: torch.Tensor) -> torch.Tensor:
    """Build the sampling grid (1, *S, D) for F.grid_sample: x first, the image from -1 to 1."""
    dimensions = len(size)
    rows = []
    for axis in reversed(range(dimensions)):  # grid_sample expects x first
        unit = 2 / image.shape[axis]
        place = torch.full((), unit * shift[axis], device=image.device)
        for other, count in enumerate(size):
            factor = unit * float(matrix[axis, other])
            steps = (torch.arange(count, device=image.device, dtype=image.dtype) - (count - 1) / 2) * factor
            place = place + steps.view(-1, *[1] * (dimensions - 1 - other))
        rows.append(place)
    return torch.stack(rows).movedim(0, -1)[None]  # faster than stacking on the last axis


# --- grey values ----------------------------------------------------------------------------------------------------


def _change_intensities(images: torch.Tensor, drawn: Draw, in_plane: bool) -> None:
    """Apply the intensity transforms to a batch in place, in order."""

    def noise(part: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator(device=part.device).manual_seed(drawn.noise_seed)
        normal = torch.randn(part.shape, generator=generator, device=part.device, dtype=part.dtype)
        return part.add_(normal.mul_(std))

    def low_resolution(part: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        zooms = drawn.zoom[~np.isnan(drawn.zoom)]
        return torch.cat([_low_resolution(one[None], zoom, in_plane) for one, zoom in zip(part, zooms, strict=True)])

    _change(images, drawn.noise_std, noise)
    _change(images, drawn.blur_sigma, _blur)
    _change(images, drawn.brightness, torch.Tensor.mul_)
    _change(images, drawn.contrast, _contrast)
    _change(images, drawn.zoom, low_resolution)
    _change(images, drawn.inverted_gamma, lambda part, gamma: _gamma(part.neg_(), gamma).neg_())
    _change(images, drawn.gamma, _gamma)


def _change(
    images: torch.Tensor, values: Floats, transform: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """Replace the samples (n, 1, *S) that have a value by transform(samples, values); values are (n, k or 1, *1)."""
    values = values.reshape(len(values), -1)
    chosen = np.flatnonzero(~np.isnan(values[:, 0]))
    if len(chosen):
        index = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        given = torch.from_numpy(values[chosen].astype(np.float32)).to(images.device, non_blocking=True)
        shape = (*given.shape, *[1] * (images.ndim - 2))
        images.index_copy_(0, index, transform(images.index_select(0, index), given.view(shape)))


def _blur(images: torch.Tensor, sigma_voxels: torch.Tensor) -> torch.Tensor:
    """Separable Gaussian filter for (n, 1, *S) with sigma (n, D, *1); borders are replicated."""
    offsets = torch.arange(BLUR_REACH + 1, device=images.device, dtype=images.dtype)
    offsets = offsets.view(-1, *[1] * images.ndim)
    weights = torch.exp(-0.5 * (offsets / sigma_voxels) ** 2)  # (reach + 1, n, D, *1)
    weights = weights / (2 * weights.sum(0) - weights[0])
    for axis in range(2, images.ndim):
        count, of_axis = images.shape[axis], weights[:, :, axis - 2, None]
        ends = [images.narrow(axis, place, 1) for place in (0, count - 1)]
        padded = torch.cat([ends[0]] * BLUR_REACH + [images] + [ends[1]] * BLUR_REACH, dim=axis)
        images = images * of_axis[0]
        for step in range(1, BLUR_REACH + 1):
            pair = padded.narrow(axis, BLUR_REACH - step, count) + padded.narrow(axis, BLUR_REACH + step, count)
            images.add_(pair.mul_(of_axis[step]))
    return images


def _contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretch about the mean, clipped to the original range."""
    low, high = _range(images)
    mean = _mean(images)
    return images.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def _low_resolution(image: torch.Tensor, zoom: float, in_plane: bool) -> torch.Tensor:
    """Downsample (1, 1, *S) by nearest neighbour and enlarge it linearly."""
    size = tuple(image.shape[2:])
    small = tuple(count if in_plane and axis == 0 else max(1, round(count * zoom)) for axis, count in enumerate(size))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    reduced = F.interpolate(image, size=small, mode="nearest-exact")
    return F.interpolate(reduced, size=size, mode=mode, align_corners=False)


def _gamma(images: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Apply a power law to each image's range; mean and standard deviation are kept."""
    mean = _mean(images)
    std = _mean((images - mean).square_()).sqrt_()
    low, high = _range(images)
    images.sub_(low).div_((high - low).clamp_min_(SMALLEST)).pow_(gamma)
    images.sub_(_mean(images))
    return images.mul_(std / _mean(images.square()).sqrt_().clamp_min_(SMALLEST)).add_(mean)


def _mean(images: torch.Tensor) -> torch.Tensor:
    """Mean of each image, (n, 1, *1)."""
    return images.mean(tuple(range(1, images.ndim)), keepdim=True)


def _range(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum of each image, (n, 1, *1) each."""
    axes = tuple(range(1, images.ndim))
    return images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
