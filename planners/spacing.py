"""Choose the spacing: assumed for files without one, axis order, and the group's common target."""

from collections.abc import Sequence

import numpy as np

from mdkd_auto.core.records import Fingerprint, IntTriple, Reason, Triple
from mdkd_auto.planners.group_member import Floats, Member, case_spacing

# Assumed width of an image without physical spacing. CT: 512 pixels of 0.78 mm, the median in-plane spacing of
# LiTS and MSD Lung (0.77 to 0.79 mm). MRI: a usual head field of view. CXR: a slightly collimated 43 cm detector.
FIELD_OF_VIEW_MM = {"CT": 400.0, "MRI": 240.0, "CXR": 400.0}
OTHER_FIELD_OF_VIEW_MM = 400.0
COARSE_AXIS_FACTOR = 1.5  # an axis coarser by this factor comes first
ISOTROPIC_WITHIN = 0.10  # in-plane axes this close are made equal
STRONG_ANISOTROPY = 3.0  # nnU-Net's rule
MIN_LESION_VOXELS = 4.0  # width of the 10th percentile lesion at the target spacing
SMALL_LESION_PERCENTILE = 10.0
FINEST_FACTOR = 2.0  # lesions lower the spacing by at most this factor: cost grows with its square or cube


def assume_spacing(fingerprint: Fingerprint, modality: str) -> tuple[Triple | None, Reason | None]:
    """Return a nominal spacing (canonical axes) if any image of a data set has none, even only in its test part."""
    if fingerprint.spacing_known:
        return None, None
    unknown = [case for case in fingerprint.cases if not case.spacing_known]
    field_of_view = FIELD_OF_VIEW_MM.get(modality.upper(), OTHER_FIELD_OF_VIEW_MM)
    pixels = float(np.median([max(case.shape[1:]) for case in unknown or fingerprint.cases]))
    size = round(field_of_view / pixels, 4)
    z = 1.0 if fingerprint.is_2d else size
    without = f"{len(unknown)} of {len(fingerprint.cases)} images outside the test part" if unknown else "test images"
    because = (
        f"no physical spacing in {without}; {pixels:g} pixels (median longer side) taken as {field_of_view:g} mm, so "
        f"{size:.4g} mm a pixel; state spacing_mm in dataset.json to correct it"
    )
    return (z, size, size), Reason(
        decision=f"{fingerprint.dataset}: assumed spacing", value=f"{size:.4g} mm", because=because
    )


def choose_transpose(fingerprint: Fingerprint, assumed: Triple | None) -> tuple[IntTriple, str]:
    """Order the canonical axes (z, y, x), the coarsest first if it is much coarser; returns also the reason."""
    if fingerprint.is_2d:
        return (0, 1, 2), "2-D images keep their axes"
    spacing = np.median([case_spacing(case, assumed) for case in fingerprint.cases], axis=0)
    coarsest = int(np.argmax(spacing))
    others = [axis for axis in range(3) if axis != coarsest]
    shown = text_mm(spacing)
    if spacing[coarsest] <= COARSE_AXIS_FACTOR * max(spacing[axis] for axis in others):
        return (0, 1, 2), f"no axis is {COARSE_AXIS_FACTOR} x coarser than the others ({shown}): slices are axial"
    return (coarsest, others[0], others[1]), f"axis {'zyx'[coarsest]} is the coarsest ({shown}) and comes first"


def in_plane_spacing(members: Sequence[Member]) -> tuple[Floats, list[Reason]]:
    """(y, x) target of the 2-D configuration: the median of the data sets' medians, lowered for small lesions."""
    medians = np.array([member.spacing_mm[1:] for member in members])
    target = _isotropic_if_close(np.median(medians, axis=0))
    votes = ", ".join(f"{_short(m.name)} {text_mm(m.spacing_mm[1:])}" for m in members)
    reason = Reason(
        decision="spacing before the lesion vote",
        value=text_mm(target),
        because=f"median over data sets of their median in-plane spacing ({votes})",
    )
    finest = np.min([_isotropic_if_close(median) for median in medians], axis=0)
    lowered, lesions = lower_for_lesions(target, finest, members)
    return lowered, [reason, lesions]


def volume_spacing(members: Sequence[Member]) -> tuple[Floats, list[Reason]]:
    """(z, y, x) target of 3d_fullres: nnU-Net's rules with one vote per data set, lowered for small lesions."""
    medians = np.array([member.spacing_mm for member in members])
    target = np.median(medians, axis=0)
    votes = ", ".join(f"{_short(m.name)} {text_mm(m.spacing_mm)}" for m in members)
    because = f"median over data sets of their median spacing ({votes})"
    shape = np.median([np.median(member.shapes, axis=0) for member in members], axis=0)
    coarsest = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarsest]
    widest = max(target[axis] for axis in others)
    few_slices = shape[coarsest] * STRONG_ANISOTROPY < min(shape[axis] for axis in others)
    if target[coarsest] > STRONG_ANISOTROPY * widest and few_slices:
        tenth = np.median([np.percentile(member.spacings_mm[:, coarsest], 10) for member in members])
        target[coarsest] = max(float(tenth), widest)
        because += "; the coarsest axis is more than 3 x the others, so its 10th percentile"
    reason = Reason(decision="spacing before the lesion vote", value=text_mm(target), because=because)
    lowered, lesions = lower_for_lesions(target, medians.min(axis=0), members)
    return lowered, [reason, lesions]


def lower_for_lesions(target: Floats, finest: Floats, members: Sequence[Member]) -> tuple[Floats, Reason]:
    """Lower the spacing until small lesions are MIN_LESION_VOXELS wide, within two limits; reports the active limit.

    The spacing stays at or above ``finest``, the finest data set's median spacing (there is no information beyond it),
    and falls by at most FINEST_FACTOR.
    """
    small = {
        member.name: float(np.percentile(member.diameters_mm, SMALL_LESION_PERCENTILE))
        for member in members
        if member.diameters_mm.size
    }
    target = np.round(target, 4).astype(np.float64)
    if not small:
        because = "no lesions are labelled: no lesion vote"
        return target, Reason(decision="spacing", value=text_mm(target), because=because)
    name = min(small, key=lambda key: small[key])
    needed = small[name] / MIN_LESION_VOXELS
    specks = sum(member.specks for member in members)
    vote = f"10th percentile lesion of {name} is {small[name]:.3g} mm, the smallest of the group"
    vote += f" ({specks} components of fewer than 3 voxels left out as noise)" if specks else ""
    if np.all(target <= needed):
        because = f"{vote}: it is {small[name] / target.max():.1f} voxels wide, {MIN_LESION_VOXELS:g} are enough"
        return target, Reason(decision="spacing", value=text_mm(target), because=because)
    lowered = np.minimum(target, np.maximum(needed, np.maximum(finest, target / FINEST_FACTOR)))
    lowered = np.round(lowered, 4).astype(np.float64)
    bit = _what_bit(target, lowered, needed, finest)
    because = f"{vote}: {MIN_LESION_VOXELS:g} voxels would need {needed:.3g} mm; {bit}"
    return lowered, Reason(decision="spacing", value=text_mm(lowered), because=because)


def _what_bit(target: Floats, lowered: Floats, needed: float, finest: Floats) -> str:
    parts = []
    if np.any((lowered < target) & np.isclose(lowered, needed, atol=1e-3)):
        parts.append("lowered to that")
    if np.any((lowered > needed + 1e-3) & np.isclose(lowered, finest, atol=1e-3)):
        parts.append(f"not below {text_mm(finest)}, the finest data set's own: beyond it there is no information")
    if np.any((lowered > needed + 1e-3) & np.isclose(lowered, target / FINEST_FACTOR, atol=1e-3)):
        parts.append(f"not below half of {text_mm(target)} because of the cost")
    return "; ".join(parts)


def _isotropic_if_close(spacing: Floats) -> Floats:
    """Equalise (y, x) to the geometric mean if they differ by at most ISOTROPIC_WITHIN."""
    if spacing.max() <= spacing.min() * (1 + ISOTROPIC_WITHIN):
        return np.full(2, float(np.sqrt(spacing[0] * spacing[1])))
    return spacing


def text_mm(spacing: Floats | Sequence[float]) -> str:
    """Format a spacing, e.g. 1.56 x 1.56 mm."""
    return " x ".join(f"{float(value):.3g}" for value in spacing) + " mm"


def _short(name: str) -> str:
    return name[7:10] if name.startswith("Dataset") else name
