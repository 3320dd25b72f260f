"""Read images in canonical orientation, and write masks back in the geometry of their image."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.files import refusal_of, write_atomically, write_bytes
from mdkd_auto.core.records import SpacingFrom
from mdkd_auto.formats.file_endings import (
    ENDINGS,
    ITK_ENDINGS,
    NIFTI_ENDINGS,
    image_ending,
    output_ending,
)
from mdkd_auto.formats.image import Array, Header, Image, axis_codes, compare_geometry, same_geometry
from mdkd_auto.formats.itk import read_itk, write_itk
from mdkd_auto.formats.nifti import nifti_bytes, read_nifti
from mdkd_auto.formats.planar import read_planar, write_planar

__all__ = [
    "ENDINGS",
    "Header",
    "Image",
    "axis_codes",
    "compare_geometry",
    "image_ending",
    "output_ending",
    "read_image",
    "read_mask",
    "same_geometry",
    "write_mask",
]


LABEL_DRIFT = 1e-4  # error of a label from header slope and intercept after many round trips


def read_image(path: Path, colour_to_grey: bool = False, spacing_from: SpacingFrom | None = None) -> Image:
    """Read one complete file of any of ``ENDINGS`` in canonical orientation; colour only with ``colour_to_grey``.

    ``spacing_from`` selects the source if voxel sizes of a NIfTI header contradict each other.
    Raises ImageError with the file's name if it is missing, damaged, truncated, in colour, or not 2-D or 3-D.
    """
    return _read(Path(path), spacing_from, colour_to_grey=colour_to_grey)


def read_mask(path: Path, spacing_from: SpacingFrom | None = None) -> Image:
    """Read labels as :func:`read_image` does, but with palette indices and unscaled samples of few bits.

    Labels scaled by the header are rounded to integers if they deviate only by rounding.
    """
    image = _read(Path(path), spacing_from, as_mask=True)
    if image.array.dtype.kind != "f":
        return image
    with np.errstate(invalid="ignore"):  # callers reject infinite values
        whole = np.rint(image.array)
        drifted = np.abs(image.array - whole).max() <= LABEL_DRIFT
    return replace(image, array=whole) if drifted else image


def _read(path: Path, spacing_from: SpacingFrom | None, colour_to_grey: bool = False, as_mask: bool = False) -> Image:
    ending = image_ending(path)
    if not path.is_file():
        raise ImageError(f"{path}: the file does not exist")
    try:
        if _family(ending) == "planar":
            return read_planar(path, ending, colour_to_grey, as_mask)
        return read_itk(path, ending) if _family(ending) == "itk" else read_nifti(path, ending, spacing_from)
    except ImageError as error:
        raise ImageError(f"{path}: {error}", error.kind) from None
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise dozens of types on damaged files
        if (why := refusal_of(path, error)) is not None:
            raise ImageError(f"{path}: {why}", "refused") from error
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ImageError(f"{path}: cannot be read ({reason[0]}); copy or export it anew") from error


def write_mask(path: Path, mask: Array, header: Header) -> None:
    """Write labels (z, y, x, canonical) atomically in the geometry of the file ``header`` came from.

    ``path`` ends in ``output_ending(header.ending)`` or another ending of the same family (.nii for .nii.gz).
    Labels are uint8, or uint16 if one exceeds 255. Raises ImageError.
    """
    path = Path(path)
    ending = image_ending(path)
    if _family(ending) != _family(header.ending):
        wanted = output_ending(header.ending)
        raise ImageError(f"{path}: a mask for a {header.ending} image is written as {wanted}, not as {ending}")
    if ending == ".mhd":
        raise ImageError(f"{path}: a mask is written as one file; use .mha")
    try:
        if ending in NIFTI_ENDINGS:
            content = nifti_bytes(mask, header, compress=ending == ".nii.gz")
            write_bytes(path, content)
        elif ending in ITK_ENDINGS:
            write_atomically(path, lambda temporary: write_itk(temporary, mask, header))
        else:
            write_atomically(path, lambda temporary: write_planar(temporary, ending, mask, header))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def _family(ending: str) -> str:
    if ending in NIFTI_ENDINGS:
        return "nifti"
    return "itk" if ending in ITK_ENDINGS else "planar"
