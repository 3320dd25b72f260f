"""What classifiers look at, and how well their embeddings keep the classes apart: baseline beside student."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from mdkd_auto.core import extras
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.model import Model
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.models import column_model
from mdkd_auto.report.neighbours import NEIGHBOURS, named_accuracy
from mdkd_auto.report.patches import read_stored, row_step
from mdkd_auto.report.segmentation.embedding import tsne
from mdkd_auto.tasks.classification.scoring import ClassSummary
from mdkd_auto.tasks.shared.whole_images import into_patch

COLUMNS = ("data-set-specific", "student")
MOST_CLASSES = 6  # drawn, a line each
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
FEWEST_POINTS = 10
MOST_CASES = 2000  # embedded: neighbours take a matrix of all pairs
SEED = 0

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Scored(NamedTuple):
    """The scored cases of a target, in one order, with what the columns answered."""

    names: tuple[str, ...]
    truth: Ints
    classes: tuple[str, ...]
    patients: Ints  # numbers
    right: dict[str, NDArray[np.bool_]]  # by column
    confidence: NDArray[np.float64]  # the student's probability of the truth


class _Watched(nn.Module):
    """A classifier whose last map goes through a layer of its own, for captum to look at."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.last = model, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.model.features(x)
        maps[-1] = self.last(maps[-1])
        logits: Tensor = self.model.head(maps)
        return logits


def draw_class_attention(path: Path, experiment: Experiment, row: Row) -> None:
    """Grad-CAM (Selvaraju et al., 2017, of captum) of the true class, a line a class: image, baseline, student.

    Of each class the case that only one of the two gets right, else the one of median confidence. Raises MdkdError
    where a run or a stored case is gone.
    """
    scored = _scored(row)
    chosen = {
        name: place
        for number, name in enumerate(scored.classes[:MOST_CLASSES])
        if (place := _telling_case(scored, number)) is not None
    }
    models = {column: column_model(experiment, row, column) for column in COLUMNS}
    size = experiment.plan.configuration(experiment.configuration).patch_size
    figure = Figure(figsize=(8.4, 0.6 + 2.8 * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), 1 + len(COLUMNS), squeeze=False)
    for line, (name, place) in zip(panels, chosen.items(), strict=True):
        image = _picture(experiment, row.target, scored.names[place], size)
        step = row_step(experiment.datasets[row.target], scored.names[place])
        line[0].imshow(_flat(image)[::step], cmap="gray")
        line[0].set_title(f"{name}\n{scored.names[place]}"[:48].replace("$", r"\$"), fontsize=8)
        for axes, column in zip(line[1:], COLUMNS, strict=True):
            attention = grad_cam(models[column], image, int(scored.truth[place]))
            axes.imshow(_flat(image)[::step], cmap="gray")
            axes.imshow(_flat(attention)[::step], cmap="inferno", alpha=0.55)
            axes.set_title(f"{column}: {'right' if scored.right[column][place] else 'wrong'}", fontsize=8)
        for axes in line:
            axes.set_axis_off()
    figure.suptitle(f"{row.target}: where the true class is seen (Grad-CAM)".replace("$", r"\$"), fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def grad_cam(model: Model, image: Floats, target: int) -> Floats:
    """How much each place of an image (*S) speaks for class ``target``, 0 to 1, at the image's size."""
    extras.require(extras.CLASSIFICATION, "Grad-CAM")
    from captum.attr import LayerAttribution, LayerGradCam  # slow to import

    watched = _Watched(model)
    batch = torch.from_numpy(image)[None, None].to(next(model.parameters()).device).requires_grad_()
    coarse = LayerGradCam(watched, watched.last).attribute(batch, target=target, relu_attributions=True)
    mode = {2: "bilinear", 3: "trilinear"}[image.ndim]
    values = LayerAttribution.interpolate(coarse, image.shape, interpolate_mode=mode)[0, 0].detach().cpu().numpy()
    highest = float(values.max())
    result: Floats = values / highest if highest > 0 else values
    return result


def draw_class_embedding(path: Path, experiment: Experiment, row: Row) -> dict[str, object]:
    """t-SNE of the embeddings before the last layer, a point a scored case; returns the neighbours' scores.

    Raises MdkdError for too few cases, or where a run or a stored case is gone.
    """
    scored = _scored(row)
    if len(scored.names) < FEWEST_POINTS:
        raise MdkdError(f"{row.target}: {len(scored.names)} scored cases; a picture needs {FEWEST_POINTS}")
    size = experiment.plan.configuration(experiment.configuration).patch_size
    shown = embedded_cases(scored.truth, len(scored.classes))
    truth, patients = scored.truth[shown], scored.patients[shown]
    figure = Figure(figsize=(4.8 * len(COLUMNS), 5.2), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS))
    scores: dict[str, float | None] = {}
    for axes, column in zip(panels, COLUMNS, strict=True):
        images = (_picture(experiment, row.target, scored.names[place], size) for place in shown)
        points = embeddings(column_model(experiment, row, column), images)
        scores[column] = named_accuracy(points, truth, patients, len(scored.classes))
        places = tsne(points)
        for number, name in enumerate(scored.classes):
            own = truth == number
            colour = COLOURS[number % len(COLOURS)]
            axes.scatter(*places[own].T, s=14, color=colour, alpha=0.7, linewidths=0, label=name)
        said = "none, too few" if scores[column] is None else f"{scores[column]:.2f}"
        axes.set_title(f"{column}\nneighbours' balanced accuracy: {said}", fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
    panels[0].legend(fontsize=8)
    count = f"{len(shown)} of {len(scored.names)}" if len(shown) < len(scored.names) else f"{len(shown)}"
    figure.suptitle(f"{row.target}: embeddings of {count} {row.part} cases by t-SNE".replace("$", r"\$"), fontsize=11)
    explained = (
        f"Accuracy: class by {NEIGHBOURS} nearest neighbours in other patients, by all features; chance is "
        f"{1 / len(scored.classes):.2f}."
    )
    if len(shown) < len(scored.names):
        explained += f"\nCases drawn with seed {SEED}, at most {_most_of_class(len(scored.classes))} of each class."
    figure.supxlabel(explained, fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    return {
        "cases": len(shown),
        "scored_cases": len(scored.names),
        "neighbours": NEIGHBOURS,
        "balanced_accuracy": scores,
    }


def embedded_cases(truth: Ints, classes: int) -> Ints:
    """Places of the cases that are embedded, in order: all of 2000, else as many at most of each class, by seed.

    So a rare class keeps its cases; the neighbours' score takes the classes' shares into account.
    """
    if len(truth) <= MOST_CASES:
        return np.arange(len(truth))
    rng, most = np.random.default_rng(SEED), _most_of_class(classes)
    of_class = [np.flatnonzero(truth == number) for number in range(classes)]
    return np.sort(np.concatenate([rng.choice(own, min(most, len(own)), replace=False) for own in of_class]))


def _most_of_class(classes: int) -> int:
    """Where there are too many cases; never so few that neighbours could not be asked."""
    return max(NEIGHBOURS, MOST_CASES // classes)


@torch.no_grad()
def embeddings(model: Model, images: Iterable[Floats], batch_size: int = 16) -> Floats:
    """What the head's linear layer reads: the mean of the last map, (images, channels), batch by batch."""
    device = next(model.parameters()).device
    waiting, parts = iter(images), []
    while some := list(islice(waiting, batch_size)):
        batch = torch.from_numpy(np.stack(some))[:, None].to(device)
        parts.append(model.features(batch)[-1].flatten(2).mean(2).cpu().numpy())
    result: Floats = np.concatenate(parts).astype(np.float32)
    return result


def _scored(row: Row) -> Scored:
    """Cases that both columns answered. Raises MdkdError where a column is missing."""
    summaries = {}
    for column in COLUMNS:
        summary = row.summaries[column][0] if column in row.summaries else None
        if not isinstance(summary, ClassSummary):
            raise MdkdError(f"{row.target}: no finished {column} model")
        summaries[column] = summary
    answers = {column: {one.case_id: one for one in summary.answers} for column, summary in summaries.items()}
    names = tuple(sorted(set.intersection(*(set(some) for some in answers.values()))))
    if not names:
        raise MdkdError(f"{row.target}: no case that both models answered")
    student = [answers["student"][name] for name in names]
    logits = np.array([one.logits for one in student])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    truth = np.array([one.truth for one in student])
    return Scored(
        names,
        truth,
        summaries["student"].classes,
        np.unique([one.patient_id for one in student], return_inverse=True)[1].astype(np.int64),
        {
            column: np.array([int(np.argmax(some[name].logits)) for name in names]) == truth
            for column, some in answers.items()
        },
        (powers / powers.sum(1, keepdims=True))[np.arange(len(names)), truth],
    )


def _telling_case(scored: Scored, number: int) -> int | None:
    """A case of a class that only one of the two gets right, else that of median confidence; None without a case."""
    own = np.flatnonzero(scored.truth == number)
    if own.size == 0:
        return None
    first, second = (scored.right[column][own] for column in COLUMNS)
    differing = own[first != second]
    pool = differing if differing.size else own
    return int(pool[np.argsort(scored.confidence[pool], kind="stable")[len(pool) // 2]])


def _picture(experiment: Experiment, dataset: str, name: str, size: tuple[int, ...]) -> Floats:
    """A stored case as the network sees it."""
    return into_patch(read_stored(experiment, dataset, name).image, size)


def _flat(values: Floats) -> Floats:
    """(y, x): the middle slice of a volume."""
    return values if values.ndim == 2 else values[len(values) // 2]
