"""What augments the batches of a run: this package's transforms, batchgenerators', or nothing.

Each is a pure function of (seed, update, data set), so that a resumed run draws what it would have drawn.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch

from mdkd_auto.batches.augmentation import Draw, affine_maps, apply, draw, upright
from mdkd_auto.batches.boxes import moved_boxes
from mdkd_auto.batches.library_augmentation import LibraryTransforms
from mdkd_auto.batches.sampling import Batch, Maps
from mdkd_auto.core.settings import Settings


class Augmenter(Protocol):
    """Augments one data set's batches. ``stream`` numbers the data sets of an update."""

    def maps(self, update: int, stream: int, size: int) -> Maps | None:
        """How the ``size`` samples will be turned and scaled: what lies around them is read too."""
        ...

    def augment(self, batch: Batch, update: int, stream: int, device: torch.device) -> Batch:
        """The augmented batch on ``device``."""
        ...


def augmenter_of(
    settings: Settings, patch_size: tuple[int, ...], spacing_mm: tuple[float, ...], is_upright: bool
) -> Augmenter:
    """The one that the settings name. Raises MissingPackageError where its library is not installed."""
    if not settings.augment:
        return NoAugmentation()
    if settings.augmentation == "batchgenerators":
        return LibraryAugmentation(settings.seed, LibraryTransforms(patch_size, spacing_mm, is_upright))
    return BuiltInAugmentation(settings.seed, patch_size, spacing_mm, is_upright)


class NoAugmentation:
    """Batches as they are read."""

    def maps(self, update: int, stream: int, size: int) -> None:
        """Nothing is turned or scaled."""

    def augment(self, batch: Batch, update: int, stream: int, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return batch.to(device)


class BuiltInAugmentation(NamedTuple):
    """A whole batch at a time, on the device. See :mod:`augmentation`."""

    seed: int
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    is_upright: bool  # whole pictures, which stay upright

    def maps(self, update: int, stream: int, size: int) -> Maps:
        """See :class:`Augmenter`."""
        return affine_maps(self._drawn(update, stream, size), self.patch_size, self.spacing_mm)

    def augment(self, batch: Batch, update: int, stream: int, device: torch.device) -> Batch:
        """See :class:`Augmenter`."""
        moved = batch.to(device)
        drawn = self._drawn(update, stream, len(batch.images))
        images, labels = apply(moved.images, moved.labels, drawn, self.spacing_mm, moved.sources)
        matrices = affine_maps(drawn, self.patch_size, self.spacing_mm)
        moves = zip(moved.boxes, matrices, drawn.mirror, strict=True) if moved.boxes else ()
        boxes = tuple(moved_boxes(rows, matrix, mirror, self.patch_size) for rows, matrix, mirror in moves)
        return Batch(images, labels, batch.cases, boxes=boxes)

    def _drawn(self, update: int, stream: int, size: int) -> Draw:
        drawn = draw(np.random.default_rng([self.seed, update, stream]), size, len(self.spacing_mm))
        return upright(drawn) if self.is_upright else drawn


class LibraryAugmentation(NamedTuple):
    """Sample by sample on the CPU, by the transforms of batchgeneratorsv2."""

    seed: int
    transforms: LibraryTransforms

    def maps(self, update: int, stream: int, size: int) -> Maps:
        """See :class:`Augmenter`."""
        return [self.transforms.matrix((self.seed, update, stream, sample)) for sample in range(size)]

    def augment(self, batch: Batch, update: int, stream: int, device: torch.device) -> Batch:
        """See :class:`Augmenter`."""
        sources = {source.sample: source for source in batch.sources}
        images, labels, boxes = [], [], []
        for sample in range(len(batch.images)):
            seed = (self.seed, update, stream, sample)
            image, label, mirror = self.transforms.apply(
                batch.images[sample], batch.labels[sample], sources.get(sample), seed
            )
            images.append(image)
            labels.append(label)
            if batch.boxes:
                matrix = self.transforms.matrix(seed)
                boxes.append(moved_boxes(batch.boxes[sample], matrix, mirror.tolist(), self.transforms.patch_size))
        return Batch(torch.stack(images), torch.stack(labels), batch.cases, boxes=tuple(boxes)).to(device)
