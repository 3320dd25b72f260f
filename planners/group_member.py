"""One data set of a group as input to shared decisions: sizes and spacings in transposed axes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import CaseFingerprint, DatasetPlan, Fingerprint, Triple
from mdkd_auto.preprocessing.lesions import SPECK_VOXELS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """A data set in transposed axes (z, y, x), with one row per case."""

    name: str
    is_2d: bool
    spacings_mm: Floats  # (cases, 3); the assumed spacing if a file has none
    shapes: Floats  # (cases, 3), cropped to non-zero
    diameters_mm: Floats  # all lesions of at least SPECK_VOXELS voxels
    specks: int  # smaller components, left out
    cases: tuple[CaseFingerprint, ...] = ()  # in canonical axes

    @property
    def spacing_mm(self) -> Floats:
        """Median over the cases, per axis."""
        return np.asarray(np.median(self.spacings_mm, axis=0))

    def resampled_shapes(self, spacing_mm: Floats) -> Floats:
        """Shapes (cases, 3) at a common spacing; NaN in ``spacing_mm`` keeps each case's own spacing on that axis."""
        target = np.where(np.isnan(spacing_mm), self.spacings_mm, spacing_mm)
        return np.maximum(1.0, np.rint(self.shapes * self.spacings_mm / target))


def make_member(fingerprint: Fingerprint, plan: DatasetPlan) -> Member:
    """Convert a fingerprint to the transposed axes and millimetres of its data set's plan."""
    order = list(plan.transpose)
    assumed = plan.assumed_spacing_mm
    spacings = np.array([case_spacing(case, assumed) for case in fingerprint.cases])[:, order]
    shapes = np.array([case.cropped_shape for case in fingerprint.cases], dtype=np.float64)[:, order]
    diameters = [
        lesion.diameter_mm * _diameter_scale(case, assumed)
        for case in fingerprint.cases
        for lesion in case.lesions
        if lesion.voxels >= SPECK_VOXELS
    ]
    lesions = sum(len(case.lesions) for case in fingerprint.cases)
    return Member(
        name=fingerprint.dataset,
        is_2d=fingerprint.is_2d,
        spacings_mm=spacings,
        shapes=shapes,
        diameters_mm=np.array(diameters, dtype=np.float64),
        specks=lesions - len(diameters),
        cases=fingerprint.cases,
    )


def case_spacing(case: CaseFingerprint, assumed: Triple | None) -> Triple:
    """Return the case's spacing in canonical axes, or the assumed one if its file has none."""
    return case.spacing_mm if case.spacing_known or assumed is None else assumed


def _diameter_scale(case: CaseFingerprint, assumed: Triple | None) -> float:
    """Millimetres per pixel if the fingerprint's diameters are in pixels."""
    if case.spacing_known or assumed is None:
        return 1.0
    if case.shape[0] == 1:
        return float((assumed[1] * assumed[2]) ** 0.5)
    return float((assumed[0] * assumed[1] * assumed[2]) ** (1 / 3))
