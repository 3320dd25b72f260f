"""How well foreground and background lie apart in a model's features: votes of the nearest neighbours.

Each voxel is given a class by its nearest neighbours among the voxels of all *other* patients: those of its own are
alike for many reasons. Measured on the features, not on a picture of them.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from mdkd_auto.metrics.noise import Noise
from mdkd_auto.metrics.statistics import INTERVAL

NEIGHBOURS = 15
SAMPLES = 2000  # of the bootstrap
SEED = 0
SMALLEST = 1e-6  # deviation of a channel that says nothing

Features = NDArray[np.float32]  # (voxels, channels)
Labels = NDArray[np.bool_]  # (voxels,): foreground
Patients = NDArray[np.int64]  # (voxels,): number of the patient
Votes = NDArray[np.float64]  # (voxels,): 1 right, 0 wrong, NaN where the other patients lack a class


def scaled(features: Features) -> Features:
    """Each channel with mean 0 and deviation 1; one that says nothing stays 0."""
    centred = features - features.mean(0)
    return centred / np.maximum(centred.std(0), SMALLEST)


def neighbour_votes(features: Features, foreground: Labels, patients: Patients) -> Votes:
    """Whether the 15 nearest neighbours in other patients name a voxel's class, every channel with deviation 1.

    They name the foreground where its share among them is larger than among all voxels of the other patients. So it
    does not matter how much of either class those have.
    """
    named = named_by_neighbours(features, foreground.astype(np.int64), patients, 2)
    return np.where(named < 0, np.nan, named == foreground)


def named_by_neighbours(
    features: Features, classes: NDArray[np.int64], patients: Patients, count: int
) -> NDArray[np.int64]:
    """The class (0 to ``count`` - 1) that the 15 nearest points of other patients name, every channel with deviation 1.

    It is the one whose share among them exceeds its share among all points of the other patients the most (as a ratio;
    the first of equals). -1 where the other patients lack a class.
    """
    points = torch.from_numpy(scaled(features))
    distances = torch.cdist(points, points).numpy()
    named = np.full(len(classes), -1, dtype=np.int64)
    for point in range(len(classes)):
        others = np.flatnonzero(patients != patients[point])
        shares = np.bincount(classes[others], minlength=count) / max(1, len(others))
        if shares.all():
            nearest = others[np.argsort(distances[point, others], kind="stable")[:NEIGHBOURS]]
            near = np.bincount(classes[nearest], minlength=count) / len(nearest)
            named[point] = int((near / shares).argmax())
    return named


def named_accuracy(features: Features, labels: NDArray[np.int64], patients: Patients, classes: int) -> float | None:
    """Balanced accuracy of the classes 0 to ``classes`` - 1 that neighbours in other patients name.

    None where a class has fewer points than neighbours are asked, which would be of other classes however far these
    lie, or is one patient's alone.
    """
    if np.bincount(labels, minlength=classes).min() < NEIGHBOURS:
        return None
    named = named_by_neighbours(features, labels, patients, classes)
    own = [named[(labels == number) & (named >= 0)] for number in range(classes)]
    if not all(map(len, own)):
        return None
    return float(np.mean([(some == number).mean() for number, some in enumerate(own)]))


def balanced_accuracy(votes: Votes, foreground: Labels) -> float | None:
    """The mean over the two classes of the share of right votes: 0.5 is chance. None where a class has no vote."""
    shares = [votes[which & ~np.isnan(votes)] for which in (foreground, ~foreground)]
    return float(np.mean([share.mean() for share in shares])) if all(map(len, shares)) else None


def difference_interval(
    ours: list[Votes], theirs: list[Votes], foreground: Labels, patients: Patients
) -> tuple[float, float] | None:
    """95 % interval of our balanced accuracy minus theirs: patients drawn with replacement; with several runs of both
    their noise is added by Student's t (:class:`Noise`), run by run.

    None with fewer than two patients. A drawn set of patients that lacks a class is drawn anew.
    """
    people = np.unique(patients)
    members = [np.flatnonzero(patients == person) for person in people]
    if len(people) < 2 or any(balanced_accuracy(votes, foreground) is None for votes in (*ours, *theirs)):
        return None
    rng = np.random.default_rng(SEED)
    mean_ours, mean_theirs = np.mean(ours, axis=0), np.mean(theirs, axis=0)
    mean = _difference(mean_ours, mean_theirs, foreground)
    assert mean is not None
    differences: list[float] = []
    while len(differences) < SAMPLES:
        drawn = np.concatenate([members[index] for index in rng.integers(len(people), size=len(people))])
        difference = _difference(mean_ours[drawn], mean_theirs[drawn], foreground[drawn])
        if difference is not None:
            differences.append(difference)
    low, high = np.percentile(differences, INTERVAL)
    runs = [_difference(a, b, foreground) for a, b in zip(ours, theirs, strict=False)]
    of_runs = float(np.var(np.array(runs, dtype=float), ddof=1)) if len(runs) > 1 else 0.0
    added = Noise(0.0, of_runs, len(people), len(runs)).from_trainings(len(runs))
    return mean - float(np.hypot(mean - low, added**0.5)), mean + float(np.hypot(high - mean, added**0.5))


def _difference(ours: Votes, theirs: Votes, foreground: Labels) -> float | None:
    """Of the balanced accuracies."""
    a, b = balanced_accuracy(ours, foreground), balanced_accuracy(theirs, foreground)
    return a - b if a is not None and b is not None else None
