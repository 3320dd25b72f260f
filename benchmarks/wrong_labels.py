"""Does distillation turn itself down where the other data sets are worthless? Phantoms whose sources have wrong labels.

A target with good labels, and sources whose label files were mixed up: each image has the label of the next. Their
teachers learn nothing of use, and the joint teacher has to work past them. The table of mdkd_ablate reliability then
compares the student with all teachers weighing the same (off) with the student of weighed teachers (on), and both with
the data-set-specific model. Goes on where it stopped.
"""

import argparse
import logging
from pathlib import Path

from mdkd_auto import pipeline
from mdkd_auto.data.phantoms import LOOKS, Look, write_datasets
from mdkd_auto.files import write_bytes
from mdkd_auto.paths import Root
from mdkd_auto.settings import Settings

TARGET = LOOKS[0]
SOURCES = tuple(
    look._replace(name=f"Dataset9{number}0_Mixed{number}")
    for number, look in enumerate((LOOKS[1], LOOKS[2], LOOKS[1], LOOKS[2]), start=1)
)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, default=Path("mdkd_wrong_labels"), help="default ./mdkd_wrong_labels")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--epochs", type=int, default=5, help="of 25 updates (default 5)")
    made.add_argument("--cases", type=int, default=24, help="volumes of the target (default 24)")
    arguments = made.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root = Root(arguments.root.absolute())
    if not root.raw.is_dir():
        write_datasets(root.raw, (TARGET,), arguments.cases)
        write_datasets(root.raw, SOURCES, cases=12, seed=1)
        for look in SOURCES:
            mix_up_labels(root, look)
    pipeline.plan_and_preprocess(root, configurations=("2d",), test_fraction=0.5)
    settings = Settings(
        epochs=arguments.epochs, iterations_per_epoch=25, validation_batches=4, width=8, learning_rate=5e-3,
        batch_size=4, target_label_weight=0.0,
    )  # fmt: skip
    pipeline.ablate(root, settings, "reliability", targets=(TARGET.name,), seeds=arguments.seeds)


def mix_up_labels(root: Root, look: Look) -> None:
    """Give each image of a data set the label of the next."""
    paths = sorted((root.raw / look.name / "labelsTr").iterdir())
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
        write_bytes(path, content)


if __name__ == "__main__":
    main()
