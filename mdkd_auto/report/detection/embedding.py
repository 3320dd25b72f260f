"""t-SNE of what a detector's head tells classes apart by: objects and background in the baseline and in the student.

An object stands for itself where the head can look anywhere (Faster R-CNN), else the query whose box overlaps it most,
by half at least (RF-DETR). Background are a model's likeliest places that overlap no object by a tenth: what it would
find by mistake first.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.detector import Described
from mdkd_auto.networks.model import Model
from mdkd_auto.preprocessing.case_store import open_image, read_case_record
from mdkd_auto.report.classification.pictures import COLOURS, COLUMNS, FEWEST_POINTS
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.models import column_model
from mdkd_auto.report.neighbours import NEIGHBOURS, named_accuracy
from mdkd_auto.report.segmentation.embedding import tsne
from mdkd_auto.report.segmentation.voxels import MOST_POINTS, evenly
from mdkd_auto.tasks.detection.scoring import BoxSummary
from mdkd_auto.tasks.detection.training import HIT, numbers_of
from mdkd_auto.tasks.shared.whole_images import into_patch, patch_starts

CLEAR = 0.1  # intersection over union below which a place is background
MOST_IMAGES = 200
FEWEST_PATIENTS = 2  # of a class: neighbours are looked for in others
BACKGROUND, BACKGROUND_COLOUR = "background", "#999999"
SEED = 0

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Shown(NamedTuple):
    """A stored image as the network sees it, with its objects."""

    patch: Floats  # (y, x)
    boxes: Tensor  # (N, 4) float32: x1, y1, x2, y2 in voxels of the patch
    classes: tuple[int, ...]  # N numbers
    patient: str


class Seen(NamedTuple):
    """Objects and background of all images in one model."""

    objects: Floats  # (all N, E); NaN where the model has no place at an object
    background: Floats  # (M, E)
    images: Ints  # (M,): which image a background is of


class Points(NamedTuple):
    """What a panel shows, the objects first."""

    embeddings: Floats  # (N + M, E)
    labels: Ints  # (N + M,): 0 background, 1 to K the classes
    patients: Ints  # (N + M,): numbers


def draw_box_embedding(path: Path, experiment: Experiment, row: Row) -> dict[str, object]:
    """A panel a model, a point an object or a place without one; returns the neighbours' scores.

    Both models show the same objects. Raises MdkdError for too few, or where a run or a stored case is gone.
    """
    shown = _images(experiment, row)
    seen = {column: looked_at(column_model(experiment, row, column), shown) for column in COLUMNS}
    channels = experiment.classes(row.target).channels
    try:
        kinds, points = shared_points(seen, shown)
    except MdkdError as error:
        raise MdkdError(f"{row.target}: {error}") from None
    names = (BACKGROUND, *(channels[kind].name for kind in kinds))
    figure = Figure(figsize=(4.8 * len(COLUMNS), 5.4), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS))
    scores: dict[str, float | None] = {}
    for axes, column in zip(panels, COLUMNS, strict=True):
        scores[column] = named_accuracy(*points[column], len(names))
        _draw_points(axes, points[column], names)
        said = "none, too few" if scores[column] is None else f"{scores[column]:.2f}"
        axes.set_title(f"{column}\nneighbours' balanced accuracy: {said}", fontsize=11)
    panels[0].legend(fontsize=8)
    labels = points["student"].labels
    objects, people = int((labels > 0).sum()), len(np.unique(points["student"].patients[labels > 0]))
    title = f"{row.target}: embeddings of {objects} objects ({row.part}, {people} patients) and background by t-SNE"
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    figure.supxlabel(
        f"Background: each model's own likeliest places that overlap no object by {CLEAR:g}.\nAccuracy: class by "
        f"{NEIGHBOURS} nearest neighbours in other patients, by all features; chance is {1 / len(names):.2f}.",
        fontsize=8,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    return {
        "objects": objects,
        "patients": people,
        "classes": list(names[1:]),
        "neighbours": NEIGHBOURS,
        "background": {column: int((some.labels == 0).sum()) for column, some in points.items()},
        "balanced_accuracy": scores,
    }


def _images(experiment: Experiment, row: Row) -> list[Shown]:
    """Stored images with an object that the student was scored on, evenly from all."""
    for column in COLUMNS:
        if column not in row.summaries:
            raise MdkdError(f"{row.target}: no finished {column} model")
    summary = row.summaries["student"][0]
    assert isinstance(summary, BoxSummary)
    shown = []
    for answer in evenly([answer for answer in summary.answers if answer.truth], MOST_IMAGES):
        one = stored_image(experiment, row.target, answer.case_id, answer.patient_id)
        if one.classes:
            shown.append(one)
    return shown


def stored_image(experiment: Experiment, dataset: str, case_id: str, patient: str) -> Shown:
    """Raises MdkdError where it is not stored or damaged."""
    folder = experiment.root.cases(dataset, experiment.configuration)
    stored = read_case_record(folder, case_id).boxes or ()
    image = np.asarray(open_image(folder, case_id)[0], dtype=np.float32)
    size = experiment.plan.configuration(experiment.configuration).patch_size
    starts = patch_starts(image.shape[:0:-1], size[::-1])  # x, y
    numbers = numbers_of(experiment.classes(dataset))
    corners = torch.tensor([box.corners for box in stored], dtype=torch.float32).reshape(-1, 4)
    boxes = corners + torch.tensor(starts * 2, dtype=torch.float32)
    return Shown(into_patch(image, size), boxes, tuple(numbers[box.label] for box in stored), patient)


@torch.no_grad()
def looked_at(model: Model, shown: Sequence[Shown], batch_size: int = 8) -> Seen:
    """Of each image about as much background as it has objects in the mean, the likeliest."""
    device = next(model.parameters()).device
    most = math.ceil(sum(len(one.classes) for one in shown) / max(1, len(shown)))
    objects, background, images = [], [], []
    for start in range(0, len(shown), batch_size):
        part = shown[start : start + batch_size]
        batch = torch.from_numpy(np.stack([one.patch for one in part]))[:, None].to(device)
        found = model(batch).described([one.boxes.to(device) for one in part])
        for number, (one, places) in enumerate(zip(part, found, strict=True), start):
            own, clear = _split(Described(*(values.float().cpu() for values in places)), one.boxes)
            objects.append(own)
            background.append(clear[:most])
            images += [number] * len(background[-1])
    if not objects:
        return Seen(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), np.zeros(0, np.int64))
    return Seen(torch.cat(objects).numpy(), torch.cat(background).numpy(), np.array(images, dtype=np.int64))


def _split(places: Described, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of the objects (N, E), NaN where no place is at one, and of the background."""
    overlaps = box_iou(places.boxes, truth)  # (places, N)
    objects = places.embeddings.new_full((len(truth), places.embeddings.shape[1]), torch.nan)
    free = overlaps.clone()
    for number in range(len(truth)):
        best = int(free[:, number].argmax())
        if free[best, number] >= HIT:
            objects[number] = places.embeddings[best]
            free[best] = -1  # a place is at one object
    return objects, places.embeddings[(overlaps < CLEAR).all(1)]


def shared_points(seen: dict[str, Seen], shown: Sequence[Shown]) -> tuple[list[int], dict[str, Points]]:
    """The classes shown, and what each model's panel shows: objects that all have a place at, as much background.

    Raises MdkdError for too few.
    """
    people = np.unique([one.patient for one in shown], return_inverse=True)[1].astype(np.int64)
    counts = [len(one.classes) for one in shown]
    patients = np.repeat(people, counts)
    classes = np.array([kind for one in shown for kind in one.classes], dtype=np.int64)
    there = np.ones(len(classes), dtype=bool)
    for one in seen.values():
        there &= np.isfinite(one.objects).all(1)
    kinds = [
        kind
        for kind in np.unique(classes[there]).tolist()
        if len(np.unique(patients[there & (classes == kind)])) >= FEWEST_PATIENTS
    ]
    chosen = np.array(evenly(np.flatnonzero(there & np.isin(classes, kinds)).tolist(), MOST_POINTS), dtype=np.int64)
    if len(chosen) < FEWEST_POINTS:
        raise MdkdError(
            f"{len(chosen)} objects that both models have a place at, of classes that {FEWEST_PATIENTS} patients have; "
            f"a picture needs {FEWEST_POINTS}"
        )
    points = {}
    for column, one in seen.items():
        count = min(len(chosen), len(one.background))
        if count < FEWEST_POINTS:
            raise MdkdError(f"{count} places of the {column} model overlap no object; a picture needs {FEWEST_POINTS}")
        drawn = np.sort(np.random.default_rng(SEED).choice(len(one.background), count, replace=False))
        points[column] = Points(
            np.concatenate([one.objects[chosen], one.background[drawn]]),
            np.concatenate([1 + np.searchsorted(kinds, classes[chosen]), np.zeros(count, dtype=np.int64)]),
            np.concatenate([patients[chosen], people[one.images[drawn]]]),
        )
    return kinds, points


def _draw_points(axes: Axes, points: Points, names: Sequence[str]) -> None:
    places = tsne(points.embeddings)
    for number, name in enumerate(names):
        own = points.labels == number
        colour = BACKGROUND_COLOUR if number == 0 else COLOURS[(number - 1) % (len(COLOURS) - 1)]  # the last is grey
        label = name.replace("$", r"\$")
        axes.scatter(places[own, 0], places[own, 1], s=14, color=colour, alpha=0.7, linewidths=0, label=label)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
