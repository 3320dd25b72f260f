"""t-SNE of bottleneck features: foreground and background voxels in the baseline and in the student.

A bottleneck voxel stands for a block of the image, as many voxels as its stride. It is background where the block
holds no truth, foreground where truth fills at least half of it; the blocks between, at a lesion's edge, are left out.
Where lesions are so small that hardly any block is half full, every block that holds truth is foreground.

Each model has its own picture, since two models' features have no common axes. What they can be compared by is the
number above: how often a voxel's nearest neighbours in other patients are of its class, measured on the features.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mdkd_auto.errors import MdkdError
from mdkd_auto.experiments.evaluate import TEST
from mdkd_auto.experiments.jobs import Experiment
from mdkd_auto.files import write_atomically
from mdkd_auto.networks.model import Model
from mdkd_auto.report.models import batch_of_one, column_model
from mdkd_auto.report.patches import Patch, read_stored, tiles
from mdkd_auto.report.tables import Row

MODELS = ("data-set-specific", "student")
MOST_REPLICATES = 5  # whose numbers are averaged; the picture is the first's
MOST_POINTS = 1000  # of each class
FEWEST_PATCHES = 4
FEWEST_POINTS = 10  # of each class: fewer show nothing
MOST_VOXELS = {2: 1 << 22, 3: 1 << 23}  # of all patches together, by axes of a patch: seconds on a CPU
HALF = 0.5
FEWEST_HALF_FULL = 50  # blocks; with fewer, any truth makes a block foreground
NEIGHBOURS = 15
PERPLEXITY = 30.0
SEED = 0
COLOURS = {"background": "#0072b2", "foreground": "#d55e00"}  # Okabe and Ito 2008: apart for colour-blind eyes

Features = NDArray[np.float32]  # (voxels, channels)
Name = tuple[str, int]  # a model: column, replicate
Labels = NDArray[np.bool_]  # (voxels,): foreground

Item = TypeVar("Item")


class Voxels(NamedTuple):
    """Bottleneck voxels drawn from the patches of a target, and their features in each model."""

    foreground: Labels
    patients: NDArray[np.int64]  # (voxels,): number of the patient
    features: dict[Name, Features]
    rule: str  # what counts as foreground, in words


def draw_embedding(path: Path, experiment: Experiment, row: Row) -> dict[str, object]:
    """A panel a model; returns the numbers. Raises MdkdError for too few voxels, or where a run or case is gone."""
    models = _models(experiment, row)
    patients = {case.case_id: case.patient_id for case in experiment.datasets[row.target].cases}
    voxels = sample_voxels(models, _patches(experiment, row), patients)
    number = int(voxels.foreground.sum())
    if number < FEWEST_POINTS:
        raise MdkdError(
            f"{row.target}: only {number} foreground and as many background voxels at the bottleneck; a picture needs "
            f"{FEWEST_POINTS} of each"
        )
    scores: dict[str, list[float]] = {column: [] for column, _ in models}
    for (column, _), features in voxels.features.items():
        score = neighbour_accuracy(features, voxels.foreground, voxels.patients)
        scores[column] += [score] if score is not None else []
    people = len(np.unique(voxels.patients))
    figure = Figure(figsize=(4.6 * len(scores), 5.4), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, column in zip(panels, scores, strict=True):
        _draw_points(axes, tsne(voxels.features[column, 0]), voxels.foreground)
        axes.set_title(f"{column}\nneighbours' balanced accuracy: {_score_text(scores[column])}", fontsize=11)
    panels[0].legend(fontsize=9, markerscale=2.5)
    figure.suptitle(f"{row.target}: bottleneck voxels by t-SNE", fontsize=11)
    figure.supxlabel(
        f"{number} + {number} voxels, {row.part} cases of {people} {'patients' if people > 1 else 'patient'}; "
        f"foreground: truth fills {voxels.rule}.\nAccuracy of {NEIGHBOURS} nearest neighbours in other patients, "
        "by all features, not by the picture; chance is 0.50.",
        fontsize=8,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
    return {"voxels_of_each_class": number, "patients": people, "foreground_rule": voxels.rule,
            "neighbours": NEIGHBOURS, "balanced_accuracy": scores}  # fmt: skip


def _models(experiment: Experiment, row: Row) -> dict[Name, Model]:
    """By column and replicate. On validation cases the first alone: another fold's model was trained on them."""
    return {
        (column, replicate): column_model(experiment, row, column, replicate)
        for column in MODELS
        for replicate in range(len(row.folders.get(column, ())))
        if replicate == 0 or (row.part == TEST and replicate < MOST_REPLICATES)
    }


def _score_text(scores: Sequence[float]) -> str:
    """0.81, or 0.81 ± 0.02 (3 runs)."""
    if not scores:
        return "none, one patient"
    mean = f"{np.mean(scores):.2f}"
    return mean if len(scores) == 1 else f"{mean} ± {np.std(scores, ddof=1):.2f} ({len(scores)} runs)"


# --- which voxels ---------------------------------------------------------------------------------------------------


def _patches(experiment: Experiment, row: Row) -> list[Patch]:
    """Patches that hold truth, of the cases that the table scores, evenly from all; limited by their voxels."""
    size = experiment.plan.configuration(experiment.configuration).patch_size
    most = max(FEWEST_PATCHES, MOST_VOXELS[len(size)] // int(np.prod(size)))
    cases = next(iter(row.summaries.values()))[0].metric_per_case
    scored = [case.case_id for case in cases if any(one.dice is not None for one in case.metrics.values())]
    names = evenly(scored, most)
    chosen: list[Patch] = []
    for name in names:
        with_truth = [patch for patch in tiles(read_stored(experiment, row.target, name), size) if patch.truth.any()]
        chosen += evenly(with_truth, max(1, most // len(names)))
    return chosen


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly from first to last."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def sample_voxels(models: dict[Name, Model], patches: Sequence[Patch], patients: dict[str, str]) -> Voxels:
    """As many foreground as background voxels, at most 1000 of each, drawn with a fixed seed; the same in every model.

    All come from patches that hold truth, so the background is what lies around lesions. ``patients``: of the cases.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(patients[patch.case_id] for patch in patches))}
    features: dict[Name, list[Features]] = {name: [] for name in models}
    shares, counted, people = [np.zeros(0, np.float32)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
    for patch in patches:
        maps = {name: _bottleneck(model, patch) for name, model in models.items()}
        size = next(iter(maps.values())).shape[1:]
        shares.append(block_shares(patch.truth, size).ravel())
        counted.append(block_shares(patch.counted, size).ravel() == 1)
        people.append(np.full(shares[-1].size, numbers[patients[patch.case_id]]))
        for name, values in maps.items():
            features[name].append(values.reshape(len(values), -1).T)
    foreground, background, rule = label_blocks(np.concatenate(shares), np.concatenate(counted))
    number = min(len(foreground), len(background), MOST_POINTS)
    rng = np.random.default_rng(SEED)
    chosen = np.concatenate([np.sort(rng.choice(one, number, replace=False)) for one in (foreground, background)])
    return Voxels(
        foreground=np.arange(len(chosen)) < number,
        patients=np.concatenate(people)[chosen],
        features={name: np.concatenate(some)[chosen] for name, some in features.items() if some},
        rule=rule,
    )


@torch.no_grad()
def _bottleneck(model: Model, patch: Patch) -> NDArray[np.float32]:
    """(C, *S)."""
    features = model.features(batch_of_one(torch.from_numpy(patch.image), model))[-1][0]
    values: NDArray[np.float32] = features.float().cpu().numpy()
    return values


def block_shares(mask: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.float32]:
    """The share of a mask in the block of each voxel of a map of ``size`` that covers the same image."""
    pool: Callable[..., torch.Tensor] = F.adaptive_avg_pool2d if mask.ndim == 2 else F.adaptive_avg_pool3d
    shares: NDArray[np.float32] = pool(torch.from_numpy(mask.astype(np.float32))[None], tuple(size))[0].numpy()
    return shares


def label_blocks(
    shares: NDArray[np.float32], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Numbers of the foreground and of the background blocks, and the rule in words; see the top of this file.

    ``counted``: the whole block lies inside the image and is to be looked at.
    """
    foreground, rule = np.flatnonzero(counted & (shares >= HALF)), "at least half of a voxel's block"
    if len(foreground) < FEWEST_HALF_FULL:
        foreground, rule = np.flatnonzero(counted & (shares > 0)), "any part of a voxel's block"
    return foreground, np.flatnonzero(counted & (shares == 0)), rule


# --- what they say --------------------------------------------------------------------------------------------------


def neighbour_accuracy(features: Features, foreground: Labels, patients: NDArray[np.int64]) -> float | None:
    """Balanced accuracy of the vote of a voxel's 15 nearest neighbours among the voxels of all other patients.

    Each channel is divided by its standard deviation first. 0.5 is chance, 1 says that the classes lie apart in the
    same way in every patient. None with one patient, or where one class is missing.
    """
    scaled = torch.from_numpy(_scaled(features))
    distances = torch.cdist(scaled, scaled)
    distances[torch.from_numpy(patients[:, None] == patients[None, :])] = torch.inf
    right: dict[bool, list[bool]] = {True: [], False: []}
    for row, own in zip(distances.numpy(), foreground.tolist(), strict=True):
        others = np.flatnonzero(np.isfinite(row))
        if len(others):
            nearest = others[np.argsort(row[others], kind="stable")[:NEIGHBOURS]]
            right[own].append(bool((foreground[nearest].mean() > 0.5) == own))
    if not right[True] or not right[False]:
        return None
    return float(np.mean([np.mean(votes) for votes in right.values()]))


def tsne(features: Features) -> NDArray[np.float64]:
    """Two coordinates of each voxel, (voxels, 2); the same every time. Poličar et al. 2024: openTSNE."""
    from openTSNE import TSNE  # slow to import

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, random_state=SEED, n_jobs=1).fit(_scaled(features)))


def _scaled(features: Features) -> Features:
    """Each channel with mean 0 and deviation 1; a channel that says nothing stays 0."""
    centred = features - features.mean(0)
    return centred / np.maximum(centred.std(0), 1e-6)


def _draw_points(axes: Axes, places: NDArray[np.float64], foreground: Labels) -> None:
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
