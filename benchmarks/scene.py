"""A body known at every point: CT volumes of any spacing are drawn from it, and the truth at any other spacing too."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import IntTriple, Triple

Floats = NDArray[np.float32]

AIR_HU, LUNG_HU, TISSUE_HU, LIVER_HU, BONE_HU = -1000.0, -850.0, 20.0, 70.0, 700.0
NOISE_HU = 20.0
SOFTNESS_MM = 0.6  # half width of every border: what a scanner's focus leaves of it
CASES = 12
DATASET = "Dataset701_Phantom"


class Ellipsoid(NamedTuple):
    """A body part; inside it the intensity goes over to ``value``."""

    centre_mm: Triple  # (z, y, x) from the centre of the volume
    radii_mm: Triple
    value: float
    is_lesion: bool = False


class Scene(NamedTuple):
    """Body parts in painting order, and the waves of the tissue's texture."""

    parts: tuple[Ellipsoid, ...]
    waves: NDArray[np.float64]  # (waves, 5): amplitude in HU, phase, and cycles a mm along z, y, x


class Grid(NamedTuple):
    """Where the voxels of a volume lie."""

    shape: IntTriple  # (z, y, x)
    spacing_mm: Triple


def random_grid(rng: np.random.Generator) -> Grid:
    """About 96 x 160 x 160 voxels, 0.7 to 1.5 mm in plane, slices of 2 to 5 mm."""
    in_plane = rng.uniform(0.7, 1.5)
    shape = (int(rng.integers(88, 105)), int(rng.integers(150, 171)), int(rng.integers(150, 171)))
    return Grid(shape, (round(rng.uniform(2.0, 5.0), 2), round(in_plane, 3), round(in_plane, 3)))


def random_scene(rng: np.random.Generator, extent_mm: Triple) -> Scene:
    """A body that fills most of the field of view, with lungs, liver, spine, ribs and one to three lesions."""
    depth, height, width = (extent / 2 for extent in extent_mm)
    tall = 4 * depth  # cut by the first and the last slice
    parts = [
        Ellipsoid((0, 0, 0), (tall, 0.80 * height, 0.92 * width), TISSUE_HU),
        Ellipsoid((-0.5 * depth, 0.1 * height, 0.35 * width), (0.5 * depth, 0.4 * height, 0.4 * width), LIVER_HU),
        Ellipsoid((0.45 * depth, 0.1 * height, -0.42 * width), (0.5 * depth, 0.5 * height, 0.28 * width), LUNG_HU),
        Ellipsoid((0.45 * depth, 0.1 * height, 0.42 * width), (0.5 * depth, 0.5 * height, 0.28 * width), LUNG_HU),
        Ellipsoid((0, -0.55 * height, 0), (tall, 0.12 * height, 0.12 * width), BONE_HU),
    ]
    for place in np.linspace(-0.8, 0.8, 7):
        for side in (-1.0, 1.0):
            centre = (place * depth, 0.1 * height, side * 0.82 * width)
            parts.append(Ellipsoid(centre, (4.0, 0.3 * height, 3.0), BONE_HU))
    for _ in range(rng.integers(1, 4)):
        middle = (rng.uniform(-0.6, 0.6) * depth, rng.uniform(-0.3, 0.5) * height, rng.uniform(-0.6, 0.6) * width)
        radius = rng.uniform(8.0, 22.0)
        radii = (radius, radius * rng.uniform(0.7, 1.2), radius * rng.uniform(0.7, 1.2))
        parts.append(Ellipsoid(middle, radii, rng.uniform(90, 160), is_lesion=True))
    waves = np.stack(
        [rng.uniform(4, 10, 6), rng.uniform(0, 2 * np.pi, 6), *(rng.uniform(-1, 1, (3, 6)) / rng.uniform(12, 40, 6))],
        axis=1,
    )
    return Scene(tuple(parts), waves)


def intensities(scene: Scene, grid: Grid, samples: IntTriple = (1, 1, 1)) -> Floats:
    """HU at the voxels of ``grid``, each the mean of ``samples`` points along its axes."""
    result = np.empty(grid.shape, np.float32)
    axes = _positions(grid, samples)
    for index in range(grid.shape[0]):  # slice by slice: memory stays small
        points = (axes[0][index * samples[0] : (index + 1) * samples[0]], *axes[1:])
        fine = _point_values(scene, points)
        result[index] = fine.reshape(samples[0], grid.shape[1], samples[1], grid.shape[2], samples[2]).mean((0, 2, 4))
    return result


def lesion_mask(scene: Scene, grid: Grid) -> NDArray[np.uint8]:
    """1 where the centre of a voxel lies in a lesion."""
    axes = _positions(grid, (1, 1, 1))
    mask = np.zeros(grid.shape, np.uint8)
    for part in scene.parts:
        if part.is_lesion:
            mask[_distance(part, axes) < 1] = 1
    return mask


def write_raw(raw: Path, cases: int = CASES, seed: int = 0) -> Path:
    """Write the phantom as an nnU-Net raw data set: noisy int16 volumes and masks as .nii.gz."""
    folder = raw / DATASET
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index in range(cases):
        scene, grid, rng = case(index, seed)
        image = intensities(scene, grid) + rng.normal(0, NOISE_HU, grid.shape)
        _save(folder / "imagesTr" / f"case_{index:03d}_0000.nii.gz", np.rint(image).astype(np.int16), grid)
        _save(folder / "labelsTr" / f"case_{index:03d}.nii.gz", lesion_mask(scene, grid), grid)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    return folder


def case(index: int, seed: int = 0) -> tuple[Scene, Grid, np.random.Generator]:
    """The scene and the voxels of one case, and the generator its noise is drawn from."""
    rng = np.random.default_rng([seed, index])
    grid = random_grid(rng)
    extent = tuple(count * step for count, step in zip(grid.shape, grid.spacing_mm, strict=True))
    return random_scene(rng, extent), grid, rng  # type: ignore[arg-type]


def _positions(grid: Grid, samples: IntTriple) -> tuple[Any, Any, Any]:
    """Sample positions in mm from the centre of the volume, an axis each."""
    z, y, x = (
        ((np.arange(count * within) + 0.5) / within - count / 2) * step
        for count, within, step in zip(grid.shape, samples, grid.spacing_mm, strict=True)
    )
    return z, y, x


def _point_values(scene: Scene, axes: tuple[Any, Any, Any]) -> NDArray[np.float64]:
    values = np.full(tuple(len(axis) for axis in axes), AIR_HU)
    for part in scene.parts:
        z, y, x = (
            slice(*np.searchsorted(axis, (middle - radius - 5 * SOFTNESS_MM, middle + radius + 5 * SOFTNESS_MM)))
            for axis, middle, radius in zip(axes, part.centre_mm, part.radii_mm, strict=True)
        )
        near = (axes[0][z], axes[1][y], axes[2][x])
        if not all(len(axis) for axis in near):
            continue
        depth_mm = (1 - _distance(part, near)) * min(part.radii_mm)
        weight = 1 / (1 + np.exp(np.clip(-depth_mm / SOFTNESS_MM * 2, -30, 30)))
        here = values[z, y, x]
        here += weight * (part.value - here)
    inside = np.clip((values - AIR_HU) / (TISSUE_HU - AIR_HU), 0, 1)
    for amplitude, phase, *cycles in scene.waves:
        z, y, x = (2 * np.pi * rate * axis for rate, axis in zip(cycles, axes, strict=True))
        in_plane = np.exp(1j * y)[:, None] * np.exp(1j * x)  # the wave is a product: one table a plane
        values += inside * amplitude * (np.exp(1j * (z + phase))[:, None, None] * in_plane).real
    return values


def _distance(part: Ellipsoid, axes: tuple[Any, Any, Any]) -> NDArray[np.float64]:
    """From the centre, in radii."""
    z, y, x = (
        ((axis - middle) / radius) ** 2
        for axis, middle, radius in zip(axes, part.centre_mm, part.radii_mm, strict=True)
    )
    distance: NDArray[np.float64] = np.sqrt(z[:, None, None] + y[:, None] + x)
    return distance


def _save(path: Path, array: NDArray[Any], grid: Grid) -> None:
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([*grid.spacing_mm[::-1], 1.0])), path)
