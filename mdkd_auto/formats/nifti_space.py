"""Voxel positions of a NIfTI header: s-form, q-form and pixdim, which may contradict each other.

The s-form is a full affine, the q-form a rotation with voxel sizes from pixdim (nifti1.h). If both are given, the
s-form takes precedence, as in nibabel and nnU-Net, unless the data set chooses otherwise.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.records import SpacingFrom
from mdkd_auto.formats.image import Affine, Remark

MOST_DIFFERENCE = 0.01  # relative, between voxel sizes: rounding and float32 differ by less
UNIT_BITS = 7  # bits of xyzt_units that hold the spatial unit
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, m, mm, micron
CHOICE = "say which is right: spacing_from in dataset.json, --spacing-from of mdkd_predict"

Floats = NDArray[np.float64]


def repair_pixdim(header: Any, as_stored: Any) -> None:
    """Repair an invalid pixdim as nifti1_io.c does.

    Only the sign of its first number matters. If an s-form is given, missing voxel sizes (0, NaN, infinite) come from
    the s-form.
    """
    if as_stored["pixdim"][0] < 0:
        header["pixdim"][0] = -1
    if int(header["sform_code"]) == 0:
        return
    sizes = _lengths(header.get_sform())
    for axis, stated in enumerate(np.asarray(as_stored["pixdim"][1:4], dtype=np.float64)):
        if not np.isfinite(stated) or stated == 0:
            header["pixdim"][axis + 1] = sizes[axis] if 0 < sizes[axis] < np.inf else 1.0


def affine_mm(header: Any, shape: tuple[int, ...], spacing_from: SpacingFrom | None) -> Affine:
    """Return the affine in mm. A slice without thickness gets 1 mm.

    Raises ImageError if voxel sizes contradict each other and ``spacing_from`` does not decide.
    """
    unit = int(header["xyzt_units"]) & UNIT_BITS
    if unit not in MM_PER_UNIT:
        raise ImageError(f"the unit of its voxel sizes (xyzt_units) is {unit}, which means nothing; export it anew")
    affine = _chosen(header, shape, spacing_from)
    if affine is None:
        _check_sizes(header, shape, MM_PER_UNIT[unit])
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= MM_PER_UNIT[unit]
    if shape[2] == 1 and not affine[:3, 2].any():
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return affine


def form_remarks(header: Any, spacing_from: SpacingFrom | None) -> tuple[Remark, ...]:
    """Report a q-form whose axes differ from the s-form's, unless ``spacing_from`` decides."""
    from nibabel.orientations import aff2axcodes

    forms = _forms(header)
    if spacing_from in forms or len(forms) < 2 or not all(_is_usable(form) for form in forms.values()):
        return ()
    codes = {name: "".join(aff2axcodes(form)) for name, form in forms.items()}
    if len(set(codes.values())) < 2:
        return ()
    message = f"its s-form points to {codes['sform']}, its q-form to {codes['qform']}; the s-form is taken"
    return (Remark("forms-contradict", message),)


def _chosen(header: Any, shape: tuple[int, ...], spacing_from: SpacingFrom | None) -> Affine | None:
    """Return the form the data set chose; None without a choice, or if the file lacks it."""
    forms = _forms(header)
    if spacing_from in forms:
        return forms[spacing_from]
    if spacing_from != "pixdim":
        return None
    axes = _counted(shape)
    form = next((form for form in forms.values() if np.isfinite(form).all() and _lengths(form)[axes].all()), None)
    if form is None:
        return np.array(header.get_base_affine(), dtype=np.float64)
    lengths, sizes = _lengths(form), np.asarray(header["pixdim"][1:4], dtype=np.float64)
    turned = form.copy()  # the form's directions and origin with pixdim's sizes
    turned[:3, :3] *= np.divide(sizes, lengths, out=np.zeros(3), where=lengths > 0)  # a slice may have no thickness
    return turned


def _forms(header: Any) -> dict[str, Affine]:
    """Return the file's forms, the preferred one first."""
    forms = {}
    if int(header["sform_code"]) > 0:
        forms["sform"] = np.array(header.get_sform(), dtype=np.float64)
    if int(header["qform_code"]) > 0:
        try:
            forms["qform"] = np.array(header.get_qform(), dtype=np.float64)
        except ValueError:  # not a rotation
            if not forms:
                raise
    return forms


def _check_sizes(header: Any, shape: tuple[int, ...], mm_per_unit: float) -> None:
    """Raise ImageError if the s-form's voxel sizes differ from pixdim, and so from the q-form's."""
    if int(header["sform_code"]) == 0:
        return
    form, stated = _lengths(header.get_sform()), np.asarray(header["pixdim"][1:4], dtype=np.float64)
    axes = _counted(shape)
    if np.allclose(form[axes], stated[axes], MOST_DIFFERENCE, 0):
        return
    sform, pixdim = _text(form * mm_per_unit), _text(stated * mm_per_unit)
    qform = pixdim if int(header["qform_code"]) > 0 else "not set"
    message = f"its voxel sizes contradict each other: s-form {sform}, q-form {qform}, pixdim {pixdim}"
    raise ImageError(f"{message} mm (the file's axes); {CHOICE}", "spacing-contradicts")


def _is_usable(form: Affine) -> bool:
    return bool(np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 0)


def _counted(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Select the axes whose voxel size matters: a single slice may have any thickness, including zero."""
    return np.array([size > 1 for size in shape])


def _lengths(form: Affine) -> Floats:
    """Side lengths of a voxel."""
    lengths: Floats = np.linalg.norm(np.asarray(form, dtype=np.float64)[:3, :3], axis=0)
    return lengths


def _text(sizes: Floats) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
