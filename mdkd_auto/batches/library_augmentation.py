"""Augmentation by the transforms of batchgeneratorsv2, nnU-Net's own, with the same probabilities and ranges as ours.

The library draws from the global generators of NumPy and PyTorch. They are seeded for each sample and put back.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mdkd_auto.batches.augmentation import (
    BLUR_PROBABILITY,
    BLUR_SIGMA_VOXELS,
    BRIGHTNESS_PROBABILITY,
    BRIGHTNESS_RANGE,
    CONTRAST_PROBABILITY,
    CONTRAST_RANGE,
    GAMMA_PROBABILITY,
    GAMMA_RANGE,
    INVERTED_GAMMA_PROBABILITY,
    LOW_RESOLUTION_PROBABILITY,
    LOW_RESOLUTION_RANGE,
    NOISE_PROBABILITY,
    NOISE_STD_RANGE,
    OUTSIDE,
    ROTATION_PROBABILITY,
    SCALE_PROBABILITY,
    SHRINK_RANGE,
    UPRIGHT_DEGREES,
    Floats,
    Source,
    largest_degrees,
    turns_in_plane,
)
from mdkd_auto.core import extras

Seed = tuple[int, ...]
Fields = dict[str, Any]  # of a sample, as the library passes them on: image (1, *S), segmentation (1, *S)

_SPATIAL, _GREY_VALUES, _MIRROR = range(3)  # each has its own random numbers
_BLUR_REACH = 6  # voxels; the library pads by reflection, which an axis must be longer than
_NO_BLUR = 1e-3  # voxels


class LibraryTransforms:
    """The transforms of one patch size and spacing. Raises MissingPackageError where the library is not installed."""

    def __init__(self, patch_size: tuple[int, ...], spacing_mm: tuple[float, ...], is_upright: bool) -> None:
        extras.require(extras.AUGMENTATION, '"augmentation": "batchgenerators"')
        from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform

        self.patch_size = patch_size
        self.in_plane = turns_in_plane(spacing_mm)
        degrees = UPRIGHT_DEGREES if is_upright else largest_degrees(patch_size, self.in_plane)
        plane = patch_size[1:] if self.in_plane else patch_size
        self._spatial = _spatial(plane, degrees)
        self._spatial_draw = _spatial((1,) * len(plane), degrees)  # the same draws without a grid of the patch
        self._grey_values = _grey_values(self.in_plane)
        axes = range(len(patch_size))
        self._mirror = MirrorTransform(tuple(axes)[-1:] if is_upright else tuple(axes))

    def matrix(self, seed: Seed) -> Floats | None:
        """(D, D) from a voxel's place after to its place before, from the centre of the patch; None: it stays."""
        plane = self._spatial_draw.patch_size
        with _seeded(seed, _SPATIAL):
            affine = self._spatial_draw.get_parameters(image=torch.empty((1, *plane)))["affine"]
        if affine is None:
            return None
        matrix = np.eye(len(self.patch_size))
        matrix[-len(plane) :, -len(plane) :] = affine
        return matrix

    def apply(
        self, image: torch.Tensor, label: torch.Tensor, source: Source | None, seed: Seed
    ) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_]]:
        """Augment an image (1, *S) and its label (*S); returns both and the axes (D,) that were mirrored.

        A sample that :meth:`matrix` turns or scales is made from ``source``. Labels that come from outside are -1.
        """
        if source is not None:
            image, label = self._turned(source, seed)
        fields: Fields = {"image": image.clone(), "segmentation": label[None]}
        with _seeded(seed, _GREY_VALUES):
            for transform in self._grey_values:
                fields = transform(**fields)
        with _seeded(seed, _MIRROR):
            mirrored = self._mirror.get_parameters()["axes"]
        fields = self._mirror.apply(fields, axes=mirrored)
        mirror = np.isin(np.arange(label.ndim), mirrored)
        return fields["image"], fields["segmentation"][0], mirror

    def _turned(self, source: Source, seed: Seed) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (1, *S) and label (*S) of a patch that is turned or scaled."""
        image, label = _centred(source)
        if self.in_plane:  # slices as channels
            image, label = image[0], label[0]
        with _seeded(seed, _SPATIAL):
            moved = self._spatial(image=image, segmentation=label)
        image, label = moved["image"], moved["segmentation"]
        return (image[None], label) if self.in_plane else (image, label[0])


def _spatial(patch_size: tuple[int, ...], degrees: float) -> Any:
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    return SpatialTransform(
        patch_size,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=ROTATION_PROBABILITY,
        rotation=(-math.radians(degrees), math.radians(degrees)),
        p_scaling=SCALE_PROBABILITY,
        scaling=SHRINK_RANGE,
        p_synchronize_scaling_across_axes=1,
        padding_mode_image="border",
        border_mode_seg="constant",
        padding_value_seg=OUTSIDE,
    )


def _grey_values(in_plane: bool) -> list[Callable[..., Fields]]:
    """The transforms of grey values in nnU-Net's order."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    gamma = BGContrast(GAMMA_RANGE)
    low_resolution = SimulateLowResolutionTransform(
        LOW_RESOLUTION_RANGE, synchronize_channels=False, synchronize_axes=True, ignore_axes=(0,) if in_plane else None
    )
    transforms = (
        (NOISE_PROBABILITY, GaussianNoiseTransform(NOISE_STD_RANGE, synchronize_channels=True)),
        (BLUR_PROBABILITY, GaussianBlurTransform(_blur_sigma)),  # not timed: by convolution or FFT, results differ
        (BRIGHTNESS_PROBABILITY, MultiplicativeBrightnessTransform(BGContrast(BRIGHTNESS_RANGE), False)),
        (CONTRAST_PROBABILITY, ContrastTransform(BGContrast(CONTRAST_RANGE), True, False)),
        (LOW_RESOLUTION_PROBABILITY, low_resolution),
        (INVERTED_GAMMA_PROBABILITY, GammaTransform(gamma, 1, False, 1, 1)),
        (GAMMA_PROBABILITY, GammaTransform(gamma, 0, False, 1, 1)),
    )
    return [RandomTransform(transform, probability) for probability, transform in transforms]


def _blur_sigma(shape: Sequence[int], dim: int) -> float:
    """Voxels, along one axis of an image (1, *S)."""
    sigma = float(np.random.uniform(*BLUR_SIGMA_VOXELS))  # noqa: NPY002 (the library's generator)
    return sigma if shape[dim] > _BLUR_REACH else _NO_BLUR


def _centred(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label (1, *S) with the centre of the patch in their middle: the image's edge repeated, label -1."""
    padding = []
    for shift in reversed(source.shift):
        missing = round(2 * shift)
        padding += [max(0, -missing), max(0, missing)]
    image = F.pad(source.image[None, None], padding, mode="replicate")[0]
    return image, F.pad(source.label[None], padding, value=OUTSIDE)


@contextmanager
def _seeded(seed: Seed, part: int) -> Iterator[None]:
    """Global generators that start from ``seed`` and ``part``, and are afterwards what they were."""
    of_numpy, of_torch = np.random.SeedSequence([*seed, part]).generate_state(2)
    before = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            np.random.seed(of_numpy)  # noqa: NPY002
            torch.default_generator.manual_seed(int(of_torch))
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
