"""How well foreground and background lie apart in a model's features: votes of the nearest neighbours.

Each voxel is given a class by its nearest neighbours among the voxels of all *other* patients: those of its own are
alike for many reasons. Measured on the features, not on a picture of them.
"""

import numpy as np
import torch
from numpy.typing import NDArray

NEIGHBOURS = 15
SAMPLES = 2000  # of the bootstrap
PERCENTILES = (2.5, 97.5)
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
    points = torch.from_numpy(scaled(features))
    distances = torch.cdist(points, points).numpy()
    votes = np.full(len(foreground), np.nan)
    for voxel, own in enumerate(foreground):
        others = np.flatnonzero(patients != patients[voxel])
        if len(set(foreground[others].tolist())) == 2:
            nearest = others[np.argsort(distances[voxel, others], kind="stable")[:NEIGHBOURS]]
            votes[voxel] = (foreground[nearest].mean() > foreground[others].mean()) == own
    return votes


def balanced_accuracy(votes: Votes, foreground: Labels) -> float | None:
    """The mean over the two classes of the share of right votes: 0.5 is chance. None where a class has no vote."""
    shares = [votes[which & ~np.isnan(votes)] for which in (foreground, ~foreground)]
    return float(np.mean([share.mean() for share in shares])) if all(map(len, shares)) else None


def difference_interval(
    ours: list[Votes], theirs: list[Votes], foreground: Labels, patients: Patients
) -> tuple[float, float] | None:
    """95 % interval of our balanced accuracy minus theirs: patients drawn with replacement, and replicates too.

    None with fewer than two patients. A drawn set of patients that lacks a class is drawn anew.
    """
    people = np.unique(patients)
    members = [np.flatnonzero(patients == person) for person in people]
    if len(people) < 2 or any(balanced_accuracy(votes, foreground) is None for votes in (*ours, *theirs)):
        return None
    rng = np.random.default_rng(SEED)
    differences: list[float] = []
    while len(differences) < SAMPLES:
        drawn = np.concatenate([members[index] for index in rng.integers(len(people), size=len(people))])
        sides = [np.mean([side[i] for i in rng.integers(len(side), size=len(side))], axis=0) for side in (ours, theirs)]
        a, b = (balanced_accuracy(side[drawn], foreground[drawn]) for side in sides)
        if a is not None and b is not None:
            differences.append(a - b)
    low, high = np.percentile(differences, PERCENTILES)
    return float(low), float(high)
