"""How often prediction calls an image unlike the training images: held-out images, other data sets', and made-up ones.

Needs only the raw folder: data sets are planned, nothing is trained. Ranges are of the training cases of each fold.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import table

from mdkd_auto import pipeline
from mdkd_auto.core.files import read_json, read_record, write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Case, Dataset, DatasetPlan, Fingerprint, Plan
from mdkd_auto.datasets.splits import read_splits
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.formats.read_write import Image
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.ranges import TrainingRanges, training_ranges, unlike_training
from mdkd_auto.preparation import find_groups
from mdkd_auto.tasks.shared.prediction import read_channel

RECORD = Path(__file__).parent / "records" / "unlike_training.json"
MOST_IMAGES = 40  # of another data set, evenly drawn
MADE_UP = ("constant", "16-bit noise", "1/10 of the intensities", "0.001 mm voxels")


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--raw", type=Path, help="raw folder: measure, and write the record")
    arguments = made.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if arguments.raw is not None:
        with tempfile.TemporaryDirectory() as folder:
            root = Root(Path(folder))
            root.raw.symlink_to(arguments.raw.resolve(), target_is_directory=True)
            write_json(RECORD, measure(root))
    print(render(read_json(RECORD)))


def measure(root: Root) -> list[dict[str, Any]]:
    """One row for each data set."""
    pipeline.plan_and_preprocess(root, request=PlanRequest(exclude_broken=True), preprocess=False)
    groups, _ = find_groups(root)
    plans = {group: read_record(root.plan(group), Plan) for group in groups}
    parts = [(dataset, plans[group].dataset(dataset.name)) for group, some in groups.items() for dataset in some]
    samples = {part.dataset: list(_images(dataset, part, _sample(dataset))) for dataset, part in parts}
    return [_row(root, dataset, part, samples) for dataset, part in parts]


def _row(root: Root, dataset: Dataset, part: DatasetPlan, samples: dict[str, list[Image]]) -> dict[str, Any]:
    fingerprint = read_record(root.fingerprint(dataset.name), Fingerprint)
    splits = read_splits(root.splits(dataset.name))
    cases = {case.case_id: case for case in dataset.cases}
    held_out = []
    for fold in splits.folds:
        trained = set(fold.train)
        ranges = training_ranges([case for case in fingerprint.cases if case.case_id in trained], part)
        wanted = [cases[name] for name in (*fold.val, *splits.test) if name in cases]
        unlike = [unlike_training(image, ranges) for image in _images(dataset, part, wanted)]
        held_out.append(
            {
                "trained": len(trained),
                "images": len(unlike),
                "unlike": sum(map(bool, unlike)),
                "fields": sorted({one.field for some in unlike for one in some}),
            }
        )
    trained = set(splits.folds[0].train)
    ranges = training_ranges([case for case in fingerprint.cases if case.case_id in trained], part)
    others = {name: _share(some, ranges) for name, some in samples.items() if name != dataset.name}
    made_up = {name: _share([_made_up(name, image) for image in samples[dataset.name]], ranges) for name in MADE_UP}
    return {
        "dataset": dataset.name,
        "held_out": held_out,
        "ranges_of_fold_0": ranges,
        "others": others,
        "made_up": made_up,
    }


def _sample(dataset: Dataset) -> list[Case]:
    return list(dataset.cases[:: -(-len(dataset.cases) // MOST_IMAGES)])


def _images(dataset: Dataset, part: DatasetPlan, cases: list[Case]) -> Iterator[Image]:
    for case in cases:
        yield read_channel(case, part, colour_to_grey=not TASK_DATA[dataset.task].masks)


def _share(images: list[Image], ranges: TrainingRanges | None) -> float:
    return sum(bool(unlike_training(image, ranges)) for image in images) / len(images)


def _made_up(name: str, image: Image) -> Image:
    if name == "constant":
        return replace(image, array=np.full_like(image.array, np.median(image.array)))
    if name == "16-bit noise":
        noise = np.random.default_rng(0).integers(0, 1 << 16, image.array.shape)
        return replace(image, array=noise.astype(np.uint16))
    if name == "1/10 of the intensities":
        return replace(image, array=image.array.astype(np.float32) / 10)
    return replace(image, spacing_mm=(0.001, 0.001, 0.001), spacing_known=True)


def render(rows: list[dict[str, Any]]) -> str:
    """Two tables: held-out and made-up images; images of other data sets."""
    numbers = [row["dataset"][7:10] for row in rows]
    first = [
        [
            number,
            str(len(row["held_out"])),
            str(sum(fold["images"] for fold in row["held_out"])),
            _percent(max(fold["unlike"] / fold["images"] for fold in row["held_out"])),
            *(_percent(row["made_up"][name]) for name in MADE_UP),
        ]
        for number, row in zip(numbers, rows, strict=True)
    ]
    second = [
        [number, *(_percent(row["others"][other["dataset"]]) if other is not row else "-" for other in rows)]
        for number, row in zip(numbers, rows, strict=True)
    ]
    head = ("trained on", "folds", "held-out images", "of them unlike, worst fold", *MADE_UP)
    return f"{table(head, first)}\n\n{table(('trained on', *numbers), second)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


if __name__ == "__main__":
    main()
