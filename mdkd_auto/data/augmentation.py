"""Augmentation of a whole batch on whatever device it lies: randomness is drawn first, then applied.

The transforms and their probabilities are nnU-Net's (rotation, scaling, noise, blur, brightness, contrast, low
resolution, gamma, mirroring); a batch is transformed by a few tensor operations instead of one worker process a sample.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

ROTATION_PROBABILITY, ROTATION_DEGREES = 0.2, 30.0
SCALE_PROBABILITY, SCALE_RANGE = 0.2, (0.7, 1.4)
NOISE_PROBABILITY, NOISE_VARIANCE = 0.1, 0.1
BLUR_PROBABILITY, BLUR_SIGMA_VOXELS = 0.2, (0.5, 1.0)
BRIGHTNESS_PROBABILITY, BRIGHTNESS_RANGE = 0.15, (0.75, 1.25)
CONTRAST_PROBABILITY, CONTRAST_RANGE = 0.15, (0.75, 1.25)
LOW_RESOLUTION_PROBABILITY, LOW_RESOLUTION_RANGE = 0.25, (0.5, 1.0)
GAMMA_PROBABILITY, INVERTED_GAMMA_PROBABILITY, GAMMA_RANGE = 0.3, 0.1, (0.7, 1.5)
ANISOTROPY_FOR_IN_PLANE = 3.0  # patch spacing ratio above which rotation, scaling and low resolution stay in plane


class Draw(NamedTuple):
    """The random numbers of one batch of B samples in D dimensions. NaN means: not applied to this sample."""

    degrees: np.ndarray  # (B, number of rotation planes)
    scale: np.ndarray  # (B,)
    mirror: np.ndarray  # (B, D) bool
    noise_std: np.ndarray
    blur_sigma: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    zoom: np.ndarray
    gamma: np.ndarray
    inverted_gamma: np.ndarray
    noise_seed: int


def draw(rng: np.random.Generator, batch: int, dimensions: int) -> Draw:
    """Draw every random number for a batch."""

    def sometimes(probability: float, low: float, high: float) -> np.ndarray:
        values = rng.uniform(low, high, batch)
        return np.where(rng.random(batch) < probability, values, np.nan)

    planes = 1 if dimensions == 2 else 3
    degrees = np.stack([rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, batch) for _ in range(planes)], axis=1)
    degrees[rng.random(batch) >= ROTATION_PROBABILITY] = np.nan
    return Draw(
        degrees=degrees,
        scale=sometimes(SCALE_PROBABILITY, *SCALE_RANGE),
        mirror=rng.random((batch, dimensions)) < 0.5,
        noise_std=np.sqrt(sometimes(NOISE_PROBABILITY, 0.0, NOISE_VARIANCE)),
        blur_sigma=sometimes(BLUR_PROBABILITY, *BLUR_SIGMA_VOXELS),
        brightness=sometimes(BRIGHTNESS_PROBABILITY, *BRIGHTNESS_RANGE),
        contrast=sometimes(CONTRAST_PROBABILITY, *CONTRAST_RANGE),
        zoom=sometimes(LOW_RESOLUTION_PROBABILITY, *LOW_RESOLUTION_RANGE),
        gamma=sometimes(GAMMA_PROBABILITY, *GAMMA_RANGE),
        inverted_gamma=sometimes(INVERTED_GAMMA_PROBABILITY, *GAMMA_RANGE),
        noise_seed=int(rng.integers(2**31)),
    )


def apply(
    images: torch.Tensor, labels: torch.Tensor, drawn: Draw, spacing_mm: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images (B, 1, *S) and labels (B, *S); labels that come from outside become -1."""
    in_plane = len(spacing_mm) == 3 and max(spacing_mm) / min(spacing_mm) > ANISOTROPY_FOR_IN_PLANE
    images, labels = _spatial(images, labels, drawn, spacing_mm, in_plane)
    images = images.clone()
    generator = torch.Generator(device=images.device).manual_seed(drawn.noise_seed)
    for index in range(len(images)):
        images[index, 0] = _intensity(images[index, 0], drawn, index, generator, in_plane)
    axes_of = [tuple(np.flatnonzero(row)) for row in drawn.mirror]
    images = torch.stack([image.flip([axis + 1 for axis in axes]) for image, axes in zip(images, axes_of, strict=True)])
    labels = torch.stack([label.flip(list(axes)) for label, axes in zip(labels, axes_of, strict=True)])
    return images, labels


def _spatial(
    images: torch.Tensor, labels: torch.Tensor, drawn: Draw, spacing_mm: tuple[float, ...], in_plane: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate and scale the samples drawn for it, in millimetres, about the centre of the patch."""
    chosen = np.flatnonzero(~np.isnan(drawn.scale) | ~np.isnan(drawn.degrees[:, 0]))
    if not len(chosen):
        return images, labels
    size = images.shape[2:]
    theta = np.stack([_affine(drawn, int(index), size, spacing_mm, in_plane) for index in chosen])
    index = torch.as_tensor(chosen, device=images.device)
    grid = F.affine_grid(
        torch.as_tensor(theta, dtype=images.dtype, device=images.device), [len(chosen), 1, *size], align_corners=False
    )
    moved = F.grid_sample(images[index], grid, mode="bilinear", padding_mode="border", align_corners=False)
    shifted = labels[index, None].to(images.dtype) + 1  # so that the zero outside the patch becomes -1
    moved_labels = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0] - 1
    images = images.index_copy(0, index, moved)
    return images, labels.index_copy(0, index, moved_labels.round().to(labels.dtype))


def _affine(
    drawn: Draw, index: int, size: tuple[int, ...], spacing_mm: tuple[float, ...], in_plane: bool
) -> np.ndarray:
    """The (D, D+1) matrix of F.affine_grid: normalised output coordinates (x first) to normalised input coordinates."""
    dimensions = len(size)
    matrix = np.eye(dimensions)  # in mm, axes (x, y[, z])
    planes = ((0, 1),) if dimensions == 2 or in_plane else ((0, 1), (0, 2), (1, 2))
    if not math.isnan(drawn.degrees[index, 0]):
        for plane, degrees in zip(planes, drawn.degrees[index], strict=False):
            rotation = np.eye(dimensions)
            angle = math.radians(degrees)
            rotation[np.ix_(plane, plane)] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            matrix = matrix @ rotation
    if not math.isnan(drawn.scale[index]):
        matrix[:2] /= drawn.scale[index]
        if not in_plane:
            matrix[2:] /= drawn.scale[index]
    half_extent_mm = np.array([count * step / 2 for count, step in zip(size, spacing_mm, strict=True)][::-1])
    matrix = matrix * half_extent_mm[None, :] / half_extent_mm[:, None]
    return np.concatenate([matrix, np.zeros((dimensions, 1))], axis=1)


def _intensity(
    image: torch.Tensor, drawn: Draw, index: int, generator: torch.Generator, in_plane: bool
) -> torch.Tensor:
    """Change the grey values of one image (*S)."""
    if not math.isnan(drawn.noise_std[index]):
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        image = image + noise * float(drawn.noise_std[index])
    if not math.isnan(drawn.blur_sigma[index]):
        image = _blur(image, float(drawn.blur_sigma[index]))
    if not math.isnan(drawn.brightness[index]):
        image = image * float(drawn.brightness[index])
    if not math.isnan(drawn.contrast[index]):
        mean, low, high = image.mean(), image.min(), image.max()
        image = ((image - mean) * float(drawn.contrast[index]) + mean).clamp(low, high)
    if not math.isnan(drawn.zoom[index]):
        image = _low_resolution(image, float(drawn.zoom[index]), in_plane)
    if not math.isnan(drawn.inverted_gamma[index]):
        image = -_gamma(-image, float(drawn.inverted_gamma[index]))
    if not math.isnan(drawn.gamma[index]):
        image = _gamma(image, float(drawn.gamma[index]))
    return image


def _blur(image: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    """Separable Gaussian filter, borders replicated."""
    radius = max(1, round(3 * sigma_voxels))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_voxels) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(image.ndim):
        if image.shape[axis] <= radius:
            continue
        lines = image.movedim(axis, -1)
        shape = lines.shape
        padded = F.pad(lines.reshape(-1, 1, shape[-1]), (radius, radius), mode="replicate")
        image = F.conv1d(padded, kernel[None, None]).reshape(shape).movedim(-1, axis)
    return image


def _low_resolution(image: torch.Tensor, zoom: float, in_plane: bool) -> torch.Tensor:
    size = tuple(image.shape)
    small = tuple(
        count if in_plane and axis == 0 else max(1, round(count * zoom)) for axis, count in enumerate(size)
    )
    mode = "bilinear" if image.ndim == 2 else "trilinear"
    reduced = F.interpolate(image[None, None], size=small, mode="nearest-exact")
    return F.interpolate(reduced, size=size, mode=mode, align_corners=False)[0, 0]


def _gamma(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """Power law on the range of the image; mean and standard deviation are kept."""
    mean, std, low = image.mean(), image.std(), image.min()
    span = (image.max() - low).clamp_min(1e-7)
    changed = ((image - low) / span) ** gamma * span + low
    return (changed - changed.mean()) / changed.std().clamp_min(1e-7) * std + mean
