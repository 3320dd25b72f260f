"""Supported image file endings, and the ending of a mask for each."""

from pathlib import PurePath

from mdkd_auto.core.errors import ImageError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".nrrd", ".mha", ".mhd")
TIFF_ENDINGS = (".tif", ".tiff")
JPEG_ENDINGS = (".jpg", ".jpeg")
PLANAR_ENDINGS = (".png", ".bmp", *JPEG_ENDINGS, *TIFF_ENDINGS)
PILLOW_FORMATS = ("PNG", "JPEG", "BMP")  # others may run external programs: EPS runs Ghostscript
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *PLANAR_ENDINGS)

# JPEG would corrupt labels; an .mhd is two files, which cannot be replaced atomically.
_MASK_ENDINGS = {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha"}


def image_ending(path: PurePath | str) -> str:
    """Return the supported ending of a file name, in lower case. Raises ImageError for any other."""
    name = PurePath(path).name.lower()
    for ending in ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return ending
    raise ImageError(f"{path}: not an image this program reads; endings: {', '.join(ENDINGS)}")


def is_planar(path: PurePath | str) -> bool:
    """Whether a file of this name stores pixels with the top row first: PNG, JPEG, BMP, TIFF, in any case."""
    return PurePath(path).name.lower().endswith(PLANAR_ENDINGS)


def is_image(name: str) -> bool:
    """Whether a file of this name is a supported image."""
    return any(name.lower().endswith(ending) and len(name) > len(ending) for ending in ENDINGS)


def ends_in(name: str, ending: str) -> bool:
    """Whether a name has this ending, ignoring case."""
    return name.lower().endswith(ending.lower())


def spellings(ending: str) -> tuple[str, ...]:
    """Return the ending in its possible spellings, for looking up a case by name."""
    return tuple(dict.fromkeys((ending.lower(), ending.upper(), ending)))


def output_ending(input_ending: str) -> str:
    """Return the mask ending for an image with ``input_ending``: the same, but .png for JPEG and .mha for .mhd."""
    return _MASK_ENDINGS.get(input_ending.lower(), input_ending)
