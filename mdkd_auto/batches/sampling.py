"""Training patches as a pure function of (seed, iteration): a resumed run sees the same batches.

Sampling draws lesions, not voxels: a fixed fraction of each batch is centred on a connected component, drawn
uniformly within its case, so a small lesion is seen as often as a large one.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import blosc2
import numpy as np
import torch
from numpy.typing import NDArray

from mdkd_auto.batches.augmentation import Source
from mdkd_auto.batches.boxes import boxes_in_patch
from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import content_hash
from mdkd_auto.core.records import IntTriple, PreprocessedCase
from mdkd_auto.preprocessing.case_store import open_image, open_label, read_case_record

INVALID = -1  # label of voxels outside the image
PREFETCHED_BATCHES = 2
OPEN_CASES = 32

Maps = Sequence[NDArray[np.float64] | None]  # matrices of a batch, from augmentation.affine_maps


class Batch(NamedTuple):
    """Training patches of one data set. S is (y, x) in 2d and (z, y, x) in 3d_fullres."""

    images: torch.Tensor  # (B, 1, *S) float32
    labels: torch.Tensor  # (B, *S) int16, raw label values, INVALID outside the image
    cases: tuple[str, ...]
    sources: tuple[Source, ...] = ()  # for the samples to be rotated or scaled, whose images and labels are empty
    boxes: tuple[torch.Tensor, ...] = ()  # detection: one (N, 5) per sample: x1, y1, x2, y2 in voxels, label

    def to(self, device: torch.device) -> "Batch":
        """Move the batch to another device."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        sources = [source._replace(image=moved(source.image), label=moved(source.label)) for source in self.sources]
        boxes = tuple(moved(rows) for rows in self.boxes)
        return Batch(moved(self.images), moved(self.labels), self.cases, tuple(sources), boxes)

    def part(self, start: int, stop: int) -> "Batch":
        """Samples start..stop-1 of an augmented batch."""
        return Batch(
            self.images[start:stop], self.labels[start:stop], self.cases[start:stop], boxes=self.boxes[start:stop]
        )


class PatchSampler:
    """Draw patches from the stored cases of one data set."""

    def __init__(
        self, folder: Path, case_ids: tuple[str, ...], patch_size: tuple[int, ...], lesion_fraction: float, seed: int
    ) -> None:
        if not case_ids:
            raise TrainingError(f"{folder}: no preprocessed case to draw from; run mdkd_plan_and_preprocess")
        self.folder = folder
        self.cases = [read_case_record(folder, case_id) for case_id in sorted(case_ids)]
        self.with_lesions = [case for case in self.cases if case.lesions or case.boxes]
        self.patch_size = patch_size
        self.patch: IntTriple = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)  # type: ignore[assignment]
        self.is_2d = len(patch_size) == 2
        self.lesion_fraction = lesion_fraction
        self.seed = seed
        self._of_thread = threading.local()

    def batch(self, iteration: int, size: int, maps: Maps | None = None) -> Batch:
        """Return the batch of ``iteration``, always the same. ``maps``: the samples' rotation and scaling."""
        rng = np.random.default_rng([self.seed, iteration])
        lesions = max(1, round(size * self.lesion_fraction)) if self.lesion_fraction > 0 else 0
        if size == 1:
            lesions = int(rng.random() < self.lesion_fraction)
        draws = [self._draw(rng, on_lesion=index >= size - lesions) for index in range(size)]
        images = np.zeros((size, 1, *self.patch), dtype=np.float32)  # torch would wake all its threads for one patch
        labels = np.full((size, *self.patch), INVALID, dtype=np.int16)
        sources = []
        for index, (case, start) in enumerate(draws):
            matrix = None if maps is None else maps[index]
            if matrix is None:
                self._read(case, start, images[index, 0], labels[index])
            else:
                sources.append(self._read_source(case, start, matrix, index))
        if self.is_2d:
            images, labels = images[:, :, 0], labels[:, 0]  # (B, 1, y, x), (B, y, x)
        boxes = tuple(
            boxes_in_patch(case.boxes, start[1:], self.patch_size) for case, start in draws if case.boxes is not None
        )
        case_ids = tuple(case.case_id for case, _ in draws)
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), case_ids, tuple(sources), boxes)

    def batches(
        self, start: int, stop: int, size: int, maps: Callable[[int], Maps | None] = lambda iteration: None
    ) -> Iterator[Batch]:
        """Yield the batches of iterations start..stop-1; a thread reads ahead while the network runs."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting: list[Future[Batch]] = []
            try:
                for iteration in range(start, stop):
                    while len(waiting) <= PREFETCHED_BATCHES and iteration + len(waiting) < stop:
                        following = iteration + len(waiting)
                        waiting.append(pool.submit(self.batch, following, size, maps(following)))
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def _draw(self, rng: np.random.Generator, on_lesion: bool) -> tuple[PreprocessedCase, IntTriple]:
        if on_lesion and self.with_lesions:
            case = self.with_lesions[rng.integers(len(self.with_lesions))]
            centre = _place_in(case, rng)
        else:
            case = self.cases[rng.integers(len(self.cases))]
            centre = tuple(int(rng.integers(size)) for size in case.shape)  # type: ignore[assignment]
        jitter = [int(rng.integers(-(size // 4), size // 4 + 1)) if size > 1 else 0 for size in self.patch]
        start = tuple(
            _clamp_start(middle + shift - size // 2, size, extent)
            for middle, shift, size, extent in zip(centre, jitter, self.patch, case.shape, strict=True)
        )
        return case, start  # type: ignore[return-value]

    def _read(
        self, case: PreprocessedCase, start: IntTriple, image: NDArray[np.float32], label: NDArray[np.int16]
    ) -> None:
        """Fill image and label (z, y, x) of a patch; outside the case they are its minimum and INVALID."""
        stop = [first + size for first, size in zip(start, self.patch, strict=True)]
        low = [max(0, first) for first in start]
        high = [min(last, extent) for last, extent in zip(stop, case.shape, strict=True)]
        values, classes = self._box(case, low, high)
        inside = tuple(
            slice(lower - first, upper - first) for lower, upper, first in zip(low, high, start, strict=True)
        )
        if values.size < image.size:
            image.fill(values.min())
        image[inside] = values
        label[inside] = classes

    def _read_source(
        self, case: PreprocessedCase, start: IntTriple, matrix: NDArray[np.float64], sample: int
    ) -> Source:
        """Read the voxels a patch needs when ``matrix`` rotates or scales it, clipped to the case."""
        half = (np.array(self.patch[-len(matrix) :]) - 1) / 2
        reach = np.zeros(3)
        reach[-len(matrix) :] = np.abs(matrix) @ half
        centre = np.array(start) + (np.array(self.patch) - 1) / 2
        low = np.maximum(np.floor(centre - reach), 0).astype(int)
        high = np.minimum(np.ceil(centre + reach) + 1, case.shape).astype(int)
        image, label = self._box(case, low.tolist(), high.tolist())
        if self.is_2d:
            image, label = image[0], label[0]
        labelled = label[label != 0]
        values = ([0] if labelled.size < label.size else []) + np.unique(labelled).tolist()
        shift = (centre - (low + high - 1) / 2)[-len(matrix) :]
        return Source(sample, torch.from_numpy(image), torch.from_numpy(label), tuple(values), tuple(shift.tolist()))

    def _box(
        self, case: PreprocessedCase, low: Sequence[int], high: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Image and label (z, y, x) of voxels low..high-1."""
        z, y, x = (slice(first, last) for first, last in zip(low, high, strict=True))
        image, label = self._opened(case.case_id)
        return image[0, z, y, x].astype(np.float32, copy=False), label[z, y, x].astype(np.int16)

    def _opened(self, case_id: str) -> tuple[blosc2.NDArray, blosc2.NDArray]:
        """Image and label, kept open per reading thread: opening costs more than reading a slice."""
        if not hasattr(self._of_thread, "open"):
            self._of_thread.open = lru_cache(OPEN_CASES)(
                lambda name: (open_image(self.folder, name), open_label(self.folder, name))
            )
        return self._of_thread.open(case_id)


def _place_in(case: PreprocessedCase, rng: np.random.Generator) -> IntTriple:
    """Draw a voxel (z, y, x) of one lesion, or the centre of one box; all lesions or boxes are equally likely."""
    if case.boxes:
        left, top, right, bottom = case.boxes[rng.integers(len(case.boxes))].corners
        return (0, int(top + bottom) // 2, int(left + right) // 2)
    lesion = case.lesions[rng.integers(len(case.lesions))]
    return lesion.points[rng.integers(len(lesion.points))]


def _clamp_start(start: int, size: int, extent: int) -> int:
    """Keep a patch inside the image; an image smaller than the patch is centred in it."""
    if extent <= size:
        return -((size - extent) // 2)
    return min(max(start, 0), extent - size)


def seed_of(dataset: str, seed: int) -> int:
    """A seed of a data set's own."""
    return int(content_hash([dataset, seed])[:12], 16)
