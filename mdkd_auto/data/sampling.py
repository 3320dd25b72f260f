"""Patches for training, a pure function of (seed, iteration): a resumed run sees the batches it would have seen.

Sampling draws lesions, not voxels: a fixed share of each batch is centred on a connected component drawn with equal
probability within its case, so that a small lesion is seen as often as a large one.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mdkd_auto.data.store import open_image, open_label
from mdkd_auto.errors import TrainingError
from mdkd_auto.files import read_record
from mdkd_auto.records import IntTriple, PreprocessedCase

INVALID = -1  # label of voxels outside the image
PREFETCHED_BATCHES = 2


class Batch(NamedTuple):
    """Training patches of one data set. S is (y, x) in 2d and (z, y, x) in 3d_fullres."""

    images: torch.Tensor  # (B, 1, *S) float32
    labels: torch.Tensor  # (B, *S) int16, raw label values, INVALID outside the image
    cases: tuple[str, ...]


class PatchSampler:
    """Draws patches from the stored cases of one data set."""

    def __init__(
        self, folder: Path, case_ids: tuple[str, ...], patch_size: tuple[int, ...], lesion_fraction: float, seed: int
    ) -> None:
        if not case_ids:
            raise TrainingError(f"{folder}: no preprocessed case to draw from; run mdkd_plan_and_preprocess")
        self.folder = folder
        self.cases = [read_record(folder / f"{case_id}.json", PreprocessedCase) for case_id in sorted(case_ids)]
        self.with_lesions = [case for case in self.cases if case.lesions]
        self.patch: IntTriple = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)  # type: ignore[assignment]
        self.is_2d = len(patch_size) == 2
        self.lesion_fraction = lesion_fraction
        self.seed = seed

    def batch(self, iteration: int, size: int) -> Batch:
        """The batch of ``iteration``, always the same."""
        rng = np.random.default_rng([self.seed, iteration])
        lesions = max(1, round(size * self.lesion_fraction)) if self.lesion_fraction > 0 else 0
        if size == 1:
            lesions = int(rng.random() < self.lesion_fraction)
        draws = [self._draw(rng, on_lesion=index >= size - lesions) for index in range(size)]
        patches = [self._read(case, start) for case, start in draws]
        images = torch.from_numpy(np.stack([image for image, _ in patches]))[:, None]
        labels = torch.from_numpy(np.stack([label for _, label in patches]))
        if self.is_2d:
            images, labels = images[:, :, 0], labels[:, 0]  # (B, 1, y, x), (B, y, x)
        return Batch(images, labels, tuple(case.case_id for case, _ in draws))

    def batches(self, start: int, stop: int, size: int) -> Iterator[Batch]:
        """Batches of iterations start..stop-1, read ahead by a thread while the network works."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting: list[Future[Batch]] = []
            try:
                for iteration in range(start, stop):
                    while len(waiting) <= PREFETCHED_BATCHES and iteration + len(waiting) < stop:
                        waiting.append(pool.submit(self.batch, iteration + len(waiting), size))
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def _draw(self, rng: np.random.Generator, on_lesion: bool) -> tuple[PreprocessedCase, IntTriple]:
        if on_lesion and self.with_lesions:
            case = self.with_lesions[rng.integers(len(self.with_lesions))]
            lesion = case.lesions[rng.integers(len(case.lesions))]
            centre = lesion.points[rng.integers(len(lesion.points))]
        else:
            case = self.cases[rng.integers(len(self.cases))]
            centre = tuple(int(rng.integers(size)) for size in case.shape)  # type: ignore[assignment]
        jitter = [int(rng.integers(-(size // 4), size // 4 + 1)) if size > 1 else 0 for size in self.patch]
        start = tuple(
            _clamp_start(middle + shift - size // 2, size, extent)
            for middle, shift, size, extent in zip(centre, jitter, self.patch, case.shape, strict=True)
        )
        return case, start  # type: ignore[return-value]

    def _read(self, case: PreprocessedCase, start: IntTriple) -> tuple[np.ndarray, np.ndarray]:
        """Image and label (z, y, x) of the patch; outside the image its minimum and INVALID."""
        inside = tuple(
            slice(max(0, first), min(extent, first + size))
            for first, size, extent in zip(start, self.patch, case.shape, strict=True)
        )
        z, y, x = inside
        image = open_image(self.folder, case.case_id)[0, z, y, x].astype(np.float32)
        label = open_label(self.folder, case.case_id)[inside].astype(np.int16)
        margins = [
            (part.start - first, first + size - part.stop)
            for part, first, size in zip(inside, start, self.patch, strict=True)
        ]
        if any(before or after for before, after in margins):
            image = np.pad(image, margins, constant_values=image.min())
            label = np.pad(label, margins, constant_values=INVALID)
        return image, label


def _clamp_start(start: int, size: int, extent: int) -> int:
    """Keep a patch inside the image; an image smaller than the patch is centred in it."""
    if extent <= size:
        return -((size - extent) // 2)
    return min(max(start, 0), extent - size)
