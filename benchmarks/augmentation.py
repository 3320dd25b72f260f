"""Augmentation alone, without reading: the built-in transforms against those of batchgeneratorsv2, nnU-Net's library.

    python benchmarks/augmentation.py [--batches 60]

One thread, CPU, the same patches, probabilities and ranges. What is turned or scaled is made from a patch and what lies
around it, already in memory.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import mean, stdev

import numpy as np
import torch
from measuring import machine, table

from mdkd_auto.batches.augmentation import Source
from mdkd_auto.batches.augmenter import Augmenter, augmenter_of
from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.settings import load_settings

CONFIGURATIONS = {"2d": ((160, 160), 16), "3d_fullres": ((96, 128, 160), 2)}
CHOICES = ("built-in", "batchgenerators")
WARM_UP = 4
MARGIN = 1.5  # sides of what lies around a patch against the patch's


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=60, help="batches per configuration (default 60)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name, (patch, size) in CONFIGURATIONS.items():
        spent = {choice: seconds(choice, patch, size, arguments.batches) for choice in CHOICES}
        ratio = mean(spent["batchgenerators"]) / mean(spent["built-in"])
        per_second = [f"{1 / mean(values):.2f} ± {error(values):.2f}" for values in spent.values()]
        rows.append([name, "x".join(map(str, patch)), str(size), *per_second, f"{ratio:.1f} x"])
    head = ["configuration", "patch", "batch", *(f"{choice}, batches per CPU second" for choice in CHOICES), "ratio"]
    print(f"{machine()}\n\n{table(head, rows)}")
    return 0


def seconds(choice: str, patch: tuple[int, ...], size: int, count: int) -> list[float]:
    """CPU seconds of each batch."""
    augmenter = augmenter_of(load_settings(None, {"augmentation": choice}), patch, (1.0,) * len(patch), False)
    return timed(augmenter, patch, size, WARM_UP + count)[WARM_UP:]


def timed(augmenter: Augmenter, patch: tuple[int, ...], size: int, count: int) -> list[float]:
    rng = np.random.default_rng(0)
    wide = tuple(int(MARGIN * side) for side in patch)
    image = torch.from_numpy(rng.normal(size=wide).astype(np.float32))
    label = (image > 1).to(torch.int16)
    inside = tuple(
        slice((around - side) // 2, (around - side) // 2 + side) for around, side in zip(wide, patch, strict=True)
    )
    images, labels = torch.stack([image[inside][None]] * size), torch.stack([label[inside]] * size)
    spent = []
    for update in range(count):
        started = time.process_time()
        maps = augmenter.maps(update, 0, size) or []
        sources = tuple(
            Source(sample, image, label, (0, 1), (0.0,) * len(patch))
            for sample, matrix in enumerate(maps)
            if matrix is not None
        )
        batch = Batch(images, labels, ("case",) * size, sources)
        augmenter.augment(batch, update, 0, torch.device("cpu"))
        spent.append(time.process_time() - started)
    return spent


def error(values: Sequence[float]) -> float:
    """Of the batches per second."""
    return stdev(values) / len(values) ** 0.5 / mean(values) ** 2


if __name__ == "__main__":
    sys.exit(main())
