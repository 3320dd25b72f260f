"""How true resampled images are: the phantom is known at every point, so the error of each side is too."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import table
from numpy.typing import NDArray
from scene import Grid, Scene, case, intensities, lesion_mask

from mdkd_auto.core.records import IntTriple, Triple
from mdkd_auto.preprocessing.resample import coarse_axis, resample_image, resample_label, resampled_shape

SCENES = 3
EDGE_HU = 100.0  # change from one voxel of the truth to the next that makes an edge
SAMPLES: IntTriple = (4, 2, 2)  # points a voxel is the mean of
TARGETS_MM: tuple[Triple, ...] = ((3.0, 1.1, 1.1), (1.5, 1.5, 1.5), (5.0, 0.8, 0.8))


class Errors(NamedTuple):
    """Of one image against the truth, in HU; and Dice of a mask there and back."""

    rmse: float
    edge_rmse: float
    largest: float
    dice: float


def report(nnunet_python: str, folder: Path) -> str:
    """Resample the same volumes on both sides; returns the table of errors."""
    cases = [(case(index)[:2], target) for index in range(SCENES) for target in TARGETS_MM]
    coarse = {f"{number}": _volume(*scene_and_grid) for number, (scene_and_grid, _) in enumerate(cases)}
    given, wanted = folder / "fidelity_given.npz", folder / "fidelity_theirs.npz"
    np.savez(
        given,
        **{
            f"{name}/{key}": value
            for (name, (image, mask)), ((_, grid), target) in zip(coarse.items(), cases, strict=True)
            for key, value in (("image", image), ("mask", mask), ("spacing", grid.spacing_mm), ("target", target))
        },
    )  # type: ignore[arg-type]
    script = str(Path(__file__).with_name("nnunet_side.py"))
    subprocess.run([nnunet_python, script, "resample", str(given), str(wanted)], check=True, cwd=folder)
    rows = []
    with np.load(wanted) as theirs:
        for (name, (image, mask)), ((scene, grid), target) in zip(coarse.items(), cases, strict=True):
            moved, back = _ours(image, mask, grid.spacing_mm, target)
            pair = (
                _errors(theirs[f"{name}/image"], scene, grid, mask, theirs[f"{name}/back"]),
                _errors(moved, scene, grid, mask, back),
            )
            rows.append([_mm(grid.spacing_mm), _mm(target), *_both(pair)])
    head = (
        "from mm",
        "to mm",
        "RMSE HU nnU-Net",
        "here",
        "at edges nnU-Net",
        "here",
        "largest nnU-Net",
        "here",
        "Dice there and back nnU-Net",
        "here",
    )
    return table(head, rows)


def _volume(scene: Scene, grid: Grid) -> tuple[NDArray[np.float32], NDArray[Any]]:
    return intensities(scene, grid, SAMPLES), lesion_mask(scene, grid)


def _ours(
    image: NDArray[np.float32], mask: NDArray[Any], spacing_mm: Triple, target_mm: Triple
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    shape, coarse = resampled_shape(image.shape, spacing_mm, target_mm), coarse_axis(spacing_mm, target_mm)
    there = resample_label(mask, shape, coarse)
    return resample_image(image, shape, coarse), resample_label(there, mask.shape, coarse)


def _errors(image: NDArray[Any], scene: Scene, grid: Grid, mask: NDArray[Any], back: NDArray[Any]) -> Errors:
    """Against the phantom at the image's own voxels: both sides keep the outer edges of the volume in place."""
    spacing = tuple(
        step * before / after for step, before, after in zip(grid.spacing_mm, grid.shape, image.shape, strict=True)
    )
    truth = intensities(scene, Grid(image.shape, spacing), SAMPLES)
    edge = np.max([np.abs(np.gradient(truth, axis=axis)) for axis in range(3)], axis=0) > EDGE_HU
    error = np.abs(image - truth)
    both = int(mask.sum()) + int((back > 0).sum())
    return Errors(
        rmse=float(np.sqrt(np.mean(error**2))),
        edge_rmse=float(np.sqrt(np.mean(error[edge] ** 2))),
        largest=float(error.max()),
        dice=2 * int(((mask > 0) & (back > 0)).sum()) / both,
    )


def _both(pair: Sequence[Errors]) -> list[str]:
    digits = (2, 1, 0, 4)
    return [f"{value:.{places}f}" for *both, places in zip(*pair, digits, strict=True) for value in both]


def _mm(spacing: Triple) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing)
