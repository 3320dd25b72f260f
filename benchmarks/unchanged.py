"""Check that a change of the code changes no result: weights, plans, splits, stored cases, scores and tables.

    python benchmarks/unchanged.py --record benchmarks/records/unchanged.json     # before the change
    python benchmarks/unchanged.py --compare benchmarks/records/unchanged.json    # after it; status 1 if any differs

Runs the commands on phantoms of the three tasks, a few minutes on two cores: every stage, several seeds,
2-D and 3-D, and the ablations that need further models. Then it hashes what lies in ``preprocessed/``, ``results/`` and
the predictions. Hashes in folder names, seconds, versions and prose are left out, so that a new ``IDENTITY_VERSION``,
the machine's speed and better wording do not count; numbers, names of files, fields and tensors do. Weights depend on
the processor and on the versions of PyTorch and its libraries: compare on the machine that recorded.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import THREADS, machine

from mdkd_auto.core.files import write_json
from mdkd_auto.demo.phantoms import LOOKS, PICTURES, SCENES, write_datasets, write_detection_datasets, write_pictures

BUDGET = ("--epochs", "2", "--iterations", "3", "--batch-size", "3", "--device", "cpu")
SMALL = {"validation_batches": 1, "reliability": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "segmentation": {**SMALL, "width": 4},
    "segmentation_3d": {**SMALL, "width": 4, "reliability": True},
    "classification": {
        **SMALL,
        "width": 4,
        "classification": {"architecture": "unet", "joint_channels": 16, "fusion_blocks": 3},
    },
    "classification_medvit": {**SMALL, "epochs": 1, "classification": {"architecture": "medvit_small"}},
    "detection": {**SMALL, "detection": {"architecture": "faster_rcnn_small"}},
    "detection_rfdetr": {**SMALL, "epochs": 1, "teacher_architecture": "rfdetr_tiny"},
}
# task -> the commands after the raw data are written; {settings} is the file of the settings of that name
COMMANDS: dict[str, tuple[str, ...]] = {
    "segmentation": (
        "mdkd_plan_and_preprocess",
        "mdkd_train_all_permutations --settings {segmentation}",
        "mdkd_train 901 -c 3d_fullres --settings {segmentation_3d} --keep-classes",
        "mdkd_ablate controls -t 901 --settings {segmentation}",
        "mdkd_ablate losses -t 901 --settings {segmentation}",
        "mdkd_ablate fusion -t 902 --settings {segmentation}",
        "mdkd_ablate labels -t 902 --settings {segmentation}",
        "mdkd_ablate target-labels -t 901 --settings {segmentation}",
    ),
    "classification": (
        "mdkd_plan_and_preprocess --input-size 64",
        "mdkd_train_all_permutations --settings {classification} --seeds 2",
        "mdkd_train 921 --settings {classification_medvit}",
        "mdkd_ablate controls -t 921 --settings {classification}",
        "mdkd_ablate classifier-losses -t 922 --settings {classification}",
    ),
    "detection": (
        "mdkd_plan_and_preprocess --input-size 64",
        "mdkd_train_all_permutations --settings {detection}",
        "mdkd_train 932 --settings {detection_rfdetr}",
        "mdkd_ablate controls -t 931 --settings {detection}",
        "mdkd_ablate detector-losses -t 932 --settings {detection}",
    ),
}
RAW: dict[str, Callable[[Path], None]] = {
    "segmentation": lambda raw: write_datasets(raw, LOOKS[:2], cases=8),
    "classification": lambda raw: write_pictures(raw, PICTURES[:2], cases=40),
    "detection": lambda raw: write_detection_datasets(raw, SCENES[:2], cases=20),
}
# fields whose values are time, place, version or another hash; their names are still compared
VARYING = re.compile(
    r"second|_share$|_at$|^(files|started|finished|time|date|host|machine|version|versions|root|folder|path|key|keys|identity|hash"
    r"|hashes|sha256|plan_key|commit|command|platform|python|threads|processor|cpu|memory|device|mib|.*_s|.*_mib)$"
)
HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{8,64}(?![0-9a-f])")
SKIPPED = (".lock", ".lock_holder")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="write the hashes to this JSON file")
    parser.add_argument("--compare", type=Path, help="compare with the hashes of this JSON file")
    parser.add_argument("--keep", type=Path, help="keep the roots in this folder, to look for what differs")
    parser.add_argument("--tasks", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        hashes = {task: dict(sorted(hashes_of_task(task, folder / task).items())) for task in options.tasks}
    if options.record is not None:
        write_json(options.record, {"machine": machine(), "torch": str(torch.__version__), "hashes": hashes})
    if options.compare is None:
        return 0
    return report(json.loads(options.compare.read_text())["hashes"], hashes)


def hashes_of_task(task: str, folder: Path) -> dict[str, list[str]]:
    """Run a task's commands in a root of its own; hash what they leave."""
    shutil.rmtree(folder, ignore_errors=True)
    RAW[task](folder / "raw")
    files = {}
    for name, content in SETTINGS.items():
        files[name] = folder / f"settings_{name}.json"
        files[name].write_text(json.dumps(content))
    for line in COMMANDS[task]:
        command, *arguments = line.format(**files).split()
        budget = () if command == "mdkd_plan_and_preprocess" else BUDGET
        run_command(command, [*arguments, *budget, "--root", str(folder)], folder / "log.txt")
    for run in sorted((folder / "results").glob("*/Student*/fold_0")):
        if (run / "finished.json").is_file():
            masks = folder / "predictions" / run.parent.name
            images = folder / "raw" / run.parent.parent.name / "imagesTr"
            few = folder / "new_images" / run.parent.parent.name
            few.mkdir(parents=True, exist_ok=True)
            for image in sorted(images.iterdir())[:2]:
                shutil.copy(image, few)
            run_command(
                "mdkd_predict",
                ["-m", str(run), "-i", str(few), "-o", str(masks), "--device", "cpu"],
                folder / "log.txt",
            )
    found: dict[str, list[str]] = defaultdict(list)
    for part in ("preprocessed", "results", "predictions"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file() and path.name not in SKIPPED:
                found[HEX.sub("#", path.relative_to(folder).as_posix())].append(hash_of_file(path))
    return {name: sorted(values) for name, values in found.items()}


def run_command(command: str, arguments: list[str], log: Path) -> None:
    """Run one of the project's commands with one thread. Raises RuntimeError where it fails."""
    module = command.removeprefix("mdkd_")
    code = f"import sys; from mdkd_auto.cli.{module} import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **THREADS},
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with open(log, "a") as output:
        output.write(f"$ {command} {' '.join(arguments)}\n{done.stdout}\n")
    if done.returncode:
        raise RuntimeError(f"{command} {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def hash_of_file(path: Path) -> str:
    """16 hexadecimal digits: of the numbers of a JSON or CSV file, of tensors, of the pixels' file, or the word for
    files of prose and pictures, of which only the names count."""
    ending = path.suffix
    if ending == ".json":
        content: Any = json.dumps(list(numbers_of(json.loads(path.read_text()))))
    elif ending == ".csv":
        rows = csv.reader(io.StringIO(path.read_text()))
        content = json.dumps([[without_prose(cell) for cell in row] for row in without_varying(list(rows))])
    elif ending in (".txt", ".md", ".png"):
        return "named"
    else:
        return hashlib.sha256(bytes_of(path)).hexdigest()[:16]
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def bytes_of(path: Path) -> bytes:
    """What a file of tensors or arrays holds, without what its library writes around it."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        arrays = load_file(path)
    elif path.suffix == ".npz":
        import numpy as np

        with np.load(path) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    elif path.suffix == ".b2nd":
        import blosc2

        arrays = {"": blosc2.open(str(path))[:]}
    elif path.name.endswith(".gz"):
        import gzip

        return gzip.decompress(path.read_bytes())
    else:
        return path.read_bytes()
    parts = [f"{name} {array.dtype} {array.shape}".encode() + array.tobytes() for name, array in sorted(arrays.items())]
    return b"".join(parts)


def numbers_of(value: Any, name: str = "") -> Iterator[Any]:
    """Field by field what counts of a JSON value: names, numbers and words, neither prose nor what varies."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield HEX.sub("#", key)
            if VARYING.search(key):
                continue
            yield from numbers_of(inner, key)
    elif isinstance(value, list):
        yield len(value)
        for inner in value:
            yield from numbers_of(inner, name)
    else:
        yield without_prose(value) if isinstance(value, str) else value


def without_prose(text: str) -> str:
    """Text without hashes; one word for a sentence or a path."""
    return "prose" if " " in text.strip() or "/" in text else HEX.sub("#", text)


def without_varying(rows: list[list[str]]) -> list[list[str]]:
    """Rows without the columns whose head says that they vary."""
    kept = [index for index, head in enumerate(rows[0]) if not VARYING.search(head)] if rows else []
    return [rows[0], *([row[index] for index in kept if index < len(row)] for row in rows[1:])] if rows else []


def report(before: dict[str, dict[str, list[str]]], after: dict[str, dict[str, list[str]]]) -> int:
    """Print what differs; 1 if anything does."""
    status = 0
    for task, hashes in after.items():
        known = before.get(task, {})
        differing = [name for name in sorted({*known, *hashes}) if known.get(name) != hashes.get(name)]
        print(f"{task}: {len(hashes)} names, {len(differing)} differ")
        for name in differing:
            state = "gone" if name not in hashes else "new" if name not in known else "differs"
            print(f"  {state}: {name}")
        status |= bool(differing)
    return status


if __name__ == "__main__":
    sys.exit(main())
