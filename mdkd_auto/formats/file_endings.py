"""Which image files are read, and with which ending a mask for them is written."""

from pathlib import PurePath

from mdkd_auto.core.errors import ImageError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".nrrd", ".mha", ".mhd")
TIFF_ENDINGS = (".tif", ".tiff")
JPEG_ENDINGS = (".jpg", ".jpeg")
PLANAR_ENDINGS = (".png", ".bmp", *JPEG_ENDINGS, *TIFF_ENDINGS)
PILLOW_FORMATS = ("PNG", "JPEG", "BMP")  # of the rest some start other programs: EPS runs Ghostscript
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *PLANAR_ENDINGS)

# JPEG would corrupt labels; an .mhd is two files, which cannot be replaced in one step.
_MASK_ENDINGS = {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha"}


def image_ending(path: PurePath | str) -> str:
    """The supported ending of a file name, in lower case. Raises ImageError for any other."""
    name = PurePath(path).name.lower()
    for ending in ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return ending
    raise ImageError(f"{path}: not an image this program reads; endings: {', '.join(ENDINGS)}")


def is_planar(path: PurePath | str) -> bool:
    """Whether a file of this name holds pixels with the top row first: PNG, JPEG, BMP, TIFF, in any case."""
    return PurePath(path).name.lower().endswith(PLANAR_ENDINGS)


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that is read."""
    return any(name.lower().endswith(ending) and len(name) > len(ending) for ending in ENDINGS)


def ends_in(name: str, ending: str) -> bool:
    """Whether a name ends so, in capitals or not."""
    return name.lower().endswith(ending.lower())


def spellings(ending: str) -> tuple[str, ...]:
    """An ending as it is, and in the ways others may have written it: a case that is told by name has one image."""
    return tuple(dict.fromkeys((ending.lower(), ending.upper(), ending)))


def output_ending(input_ending: str) -> str:
    """The ending of a mask for an image with ``input_ending``: the same, but .png for JPEG and .mha for .mhd."""
    return _MASK_ENDINGS.get(input_ending.lower(), input_ending)
