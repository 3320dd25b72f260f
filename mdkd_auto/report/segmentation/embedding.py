"""t-SNE of bottleneck features: foreground and background voxels in the baseline and in the student.

Each model has its own picture, since two models' features have no common axes. What they can be compared by is the
number above: how often a voxel's nearest neighbours in other patients are of its class.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.model import Model
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.models import column_model
from mdkd_auto.report.neighbours import (
    NEIGHBOURS,
    Votes,
    balanced_accuracy,
    difference_interval,
    neighbour_votes,
    scaled,
)
from mdkd_auto.report.segmentation.voxels import MOST_POINTS, Features, Name, Voxels, patches_with_truth, sample_voxels
from mdkd_auto.tasks.shared.scored_part import TEST

BASELINE, STUDENT = "data-set-specific", "student"
MOST_REPLICATES = 5  # whose numbers are averaged; the picture is the first's
FEWEST_POINTS = 10  # of each class: fewer show nothing
PERPLEXITY = 30.0
SEED = 0
COLOURS = {"background": "#0072b2", "foreground": "#d55e00"}  # Okabe and Ito 2008: apart for colour-blind eyes


def draw_embedding(path: Path, experiment: Experiment, row: Row) -> dict[str, object]:
    """A panel a model; returns the numbers. Raises MdkdError for too few voxels, or where a run or case is gone."""
    patients = {case.case_id: case.patient_id for case in experiment.datasets[row.target].cases}
    voxels = sample_voxels(_models(experiment, row), patches_with_truth(experiment, row), patients)
    number = int(voxels.foreground.sum())
    if number < FEWEST_POINTS:
        raise MdkdError(
            f"{row.target}: only {number} foreground and as many background voxels at the bottleneck; a picture needs "
            f"{FEWEST_POINTS} of each"
        )
    votes: dict[str, list[Votes]] = {}
    for (column, _), features in voxels.features.items():
        votes.setdefault(column, []).append(neighbour_votes(features, voxels.foreground, voxels.patients))
    scores = {column: _scores(some, voxels) for column, some in votes.items()}
    interval = None
    if len(votes) == 2:
        interval = difference_interval(votes[STUDENT], votes[BASELINE], voxels.foreground, voxels.patients)
    people = len(np.unique(voxels.patients))
    _draw(
        path,
        voxels,
        scores,
        f"{row.target}: bottleneck voxels by t-SNE",
        f"{number} + {number} voxels, {row.part} cases of {people} {'patients' if people > 1 else 'patient'}; "
        f"foreground: truth fills {voxels.rule}.\n{_explanation(scores, interval)}",
    )
    return {
        "voxels_of_each_class": number,
        "patients": people,
        "foreground_rule": voxels.rule,
        "neighbours": NEIGHBOURS,
        "balanced_accuracy": scores,
        "difference_interval_95": interval,
    }


def _models(experiment: Experiment, row: Row) -> dict[Name, Model]:
    """By column and replicate. On validation cases the first alone: another fold's model was trained on them."""
    return {
        (column, replicate): column_model(experiment, row, column, replicate)
        for column in (BASELINE, STUDENT)
        for replicate in range(len(row.folders.get(column, ())))
        if replicate == 0 or (row.part == TEST and replicate < MOST_REPLICATES)
    }


def _scores(votes: Sequence[Votes], voxels: Voxels) -> list[float]:
    """The balanced accuracy of each replicate that has one."""
    found = (balanced_accuracy(one, voxels.foreground) for one in votes)
    return [score for score in found if score is not None]


def tsne(features: Features) -> NDArray[np.float64]:
    """Two coordinates of each voxel, (voxels, 2); the same every time. Poličar et al. 2024: openTSNE."""
    from openTSNE import TSNE  # slow to import

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, random_state=SEED, n_jobs=1).fit(scaled(features)))


# --- the picture ----------------------------------------------------------------------------------------------------


def _draw(path: Path, voxels: Voxels, scores: dict[str, list[float]], title: str, explanation: str) -> None:
    figure = Figure(figsize=(4.6 * len(scores), 5.5), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (column, some) in zip(panels, scores.items(), strict=True):
        _draw_points(axes, tsne(voxels.features[column, 0]), voxels.foreground)
        axes.set_title(f"{column}\nneighbours' balanced accuracy: {_score_text(some)}", fontsize=11)
    panels[0].legend(fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(explanation, fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def _score_text(scores: Sequence[float]) -> str:
    """0.81, or 0.81 ± 0.02 (3 runs)."""
    if not scores:
        return "none, one patient"
    mean = f"{np.mean(scores):.2f}"
    return mean if len(scores) == 1 else f"{mean} ± {np.std(scores, ddof=1):.2f} ({len(scores)} runs)"


def _explanation(scores: dict[str, list[float]], interval: tuple[float, float] | None) -> str:
    """What the number is, and the difference of the two models."""
    words = (
        f"Accuracy: class by {NEIGHBOURS} nearest neighbours in other patients, by all features, not by the picture; "
        "chance is 0.50."
    )
    if interval is None:
        return words
    difference = np.mean(scores[STUDENT]) - np.mean(scores[BASELINE])
    shown = f"{difference:+.2f}, 95 % interval over patients {interval[0]:+.2f} to {interval[1]:+.2f}"
    return f"{words}\n{STUDENT} minus {BASELINE}: {shown}."


def _draw_points(axes: Axes, places: NDArray[np.float64], foreground: NDArray[np.bool_]) -> None:
    """In a mixed order, so that neither class hides the other."""
    order = np.random.default_rng(SEED).permutation(len(places))
    names = np.where(foreground, "foreground", "background")
    colours = np.array([COLOURS[name] for name in names])
    size = 6 if len(places) > MOST_POINTS else 14
    axes.scatter(places[order, 0], places[order, 1], s=size, c=colours[order], alpha=0.7, linewidths=0)
    for name, colour in COLOURS.items():
        axes.scatter([], [], s=14, c=colour, label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
