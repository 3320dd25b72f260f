"""Recognise DICOM files, so that a message can tell how to convert them; they are not read."""

import os
from pathlib import Path

from mdkd_auto.formats.file_endings import is_image

ENDINGS = (".dcm", ".dicom", ".ima")
INDEX = "dicomdir"
MAGIC, PREAMBLE = b"DICM", 128  # bytes before the magic word: DICOM part 10
MOST_FILES = 1000  # most files inspected per folder tree
CONVERT = "DICOM is not read: convert it, volumes to NIfTI (dcm2niix), single pictures to 16-bit PNG"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by name or first bytes; files with another image's ending are not opened."""
    name = path.name.lower()
    if name == INDEX or name.endswith(ENDINGS):
        return True
    if is_image(name) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def find_dicom(folder: Path) -> str | None:
    """Return the first DICOM file in a folder tree, relative to it, or None if the first files hold no DICOM."""
    seen = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            seen += 1
            if seen > MOST_FILES:
                return None
            if is_dicom(Path(place) / name):
                return os.path.relpath(os.path.join(place, name), folder)
    return None
