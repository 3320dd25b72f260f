"""Does distillation turn itself down where there is little to learn from? Phantoms, and teachers far too narrow.

Teachers of two features in the first stage teach a student of eight, whose own network, trained alone, is better than
any of them. The table of mdkd_ablate reliability compares the student whose teachers all weigh the same (off) with the
student of weighed teachers (on), and both with the data-set-specific model. Goes on where it stopped; two of these at a
time share the jobs.
"""

import argparse
import logging
from pathlib import Path

from mdkd_auto import pipeline
from mdkd_auto.data.phantoms import LOOKS, write_datasets
from mdkd_auto.paths import Root
from mdkd_auto.settings import Settings

CASES = 24  # volumes a data set, half of them to test on


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, default=Path("mdkd_weak_teachers"), help="default ./mdkd_weak_teachers")
    made.add_argument("--seeds", type=int, default=8)
    arguments = made.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root = Root(arguments.root.absolute())
    if not root.raw.is_dir():
        write_datasets(root.raw, LOOKS, CASES)
    pipeline.plan_and_preprocess(root, configurations=("2d",), test_fraction=0.5)
    settings = Settings(
        epochs=5, iterations_per_epoch=25, validation_batches=4, width=2, student_width=8, learning_rate=5e-3,
        batch_size=4,
    )  # fmt: skip
    pipeline.ablate(root, settings, "reliability", targets=(LOOKS[0].name,), seeds=arguments.seeds)


if __name__ == "__main__":
    main()
