"""Files beside images that are not images themselves: voxel data, halves of a pair, litter of operating systems."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mdkd_auto.core.files import ReadError, content_hash, file_hash, is_refusal, unread_because
from mdkd_auto.formats.dicom import CONVERT, is_dicom
from mdkd_auto.formats.file_endings import ENDINGS

HEADER_ENDINGS = (".mhd", ".mha", ".nrrd", ".nhdr")  # may name separate files for their voxels
VOXEL_ENDINGS = (".raw.gz", ".raw", ".zraw", ".img.gz", ".img", ".bin", ".dat")
PAIR_ENDINGS = (".hdr", ".hdr.gz", ".nhdr")  # unsupported headers
LONGEST_HEADER = 1 << 16  # bytes
_VOXELS = re.compile(r"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE)
_NUMBER = re.compile(r"%\d*d")

# Names left by file managers and archives. Names that begin with a dot (.DS_Store, ._c1.png) are hidden anyway.
LITTER = frozenset({"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})
DOCUMENTS = (
    ".txt",
    ".md",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".yaml",
    ".yml",
    ".log",
    ".html",
    ".pdf",
    ".doc",
    ".docx",
    ".xls",
    ".xlsx",
    ".ods",
    ".zip",
    ".bak",
    ".tmp",
    ".lnk",
    ".url",
    ".py",
    ".sh",
    ".db",
    ".ini",
)


class Unread(NamedTuple):
    """The message about an unread file. No file is called superfluous: it may be somebody's only copy."""

    found: str
    remedy: str


def is_litter(name: str) -> bool:
    """Whether a name is hidden or reserved by an operating system."""
    return name.startswith(".") or name.lower() in LITTER


def voxel_names(header: Path) -> tuple[str, ...]:
    """Return the voxel files a MetaImage or NRRD header names, as written; () if the header holds the voxels itself.

    A name with a number pattern, like ``slice_%03d.raw``, covers several files. Raises OSError.
    """
    if not header.name.lower().endswith(HEADER_ENDINGS):
        return ()
    with open(header, "rb") as file:
        text = file.read(LONGEST_HEADER).decode("latin-1")
    match = _VOXELS.search(text)
    if match is None or match[1].upper() == "LOCAL":
        return ()
    if match[1].upper().startswith("LIST"):
        return tuple(line.strip() for line in text[match.end() :].splitlines() if line.strip())
    return (match[1].split()[0] if _NUMBER.search(match[1]) else match[1],)


def voxel_files(image: Path) -> list[Path]:
    """Return the files beside an image that hold its voxels, sorted. Raises OSError."""
    names = voxel_names(image)
    plain = [image.parent / name for name in names if not _NUMBER.search(name)]
    patterns = [name for name in names if _NUMBER.search(name)]
    if patterns:
        plain += [path for path in image.parent.iterdir() if any(_fits(path.name, pattern) for pattern in patterns)]
    return sorted(path for path in plain if path.is_file())


def hash_image(image: Path, hash_of: Callable[[Path], str] = file_hash) -> str:
    """Hash an image's contents: its single file, or its header and voxel files.

    Raises ReadError if the system cannot read a file, FileNotFoundError.
    """
    try:
        parts = [image, *voxel_files(image)]
    except OSError as error:
        if not is_refusal(error):
            raise
        raise ReadError(str(image), unread_because(error)) from error
    hashes = [hash_of(file) for file in parts]
    return hashes[0] if len(hashes) == 1 else content_hash(hashes)


class Companions:
    """Describe the unread files of one folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self._voxels: frozenset[str] | None = None

    def unread(self, name: str, wanted: str = "") -> Unread | None:
        """Return None if the file is read together with its header. ``wanted``: the file_ending."""
        lower = name.lower()
        if lower.endswith(PAIR_ENDINGS) or (lower.endswith(VOXEL_ENDINGS) and self._has(name, PAIR_ENDINGS)):
            message = "is a part of an image in two files, header and voxels, which is not read"
            return Unread(message, f"ignored; keep both, and convert them to one file ending in {wanted or '.nii.gz'}")
        if lower.endswith(VOXEL_ENDINGS):
            if self._is_voxels_of_another(name):
                return None
            stem = _stem(name, VOXEL_ENDINGS)
            message = f"holds voxels whose header is missing: no {stem}.mhd and no other header here names it"
            return Unread(message, "ignored; keep it, and copy its header too")
        if lower.endswith(ENDINGS) and wanted:
            message = f"does not end in {wanted}, the file_ending of dataset.json"
            return Unread(message, f"ignored; if it belongs to a case, save it as {wanted}")
        if is_dicom(self.folder / name):
            return Unread("is DICOM", f"ignored; {CONVERT}")
        if lower.endswith(DOCUMENTS):
            return Unread("is no image", "ignored")
        return Unread("is not an image this program reads", f"ignored; if it is a case, save it as {wanted or '.png'}")

    def _has(self, name: str, endings: tuple[str, ...]) -> bool:
        """Whether a file with the same stem and one of the given endings exists."""
        stem = _stem(name, VOXEL_ENDINGS).lower()
        return any(other.lower() in {f"{stem}{ending}" for ending in endings} for other in self.names)

    def _is_voxels_of_another(self, name: str) -> bool:
        if self._has(name, HEADER_ENDINGS):
            return True
        if self._voxels is None:  # read once, and only if a file's own name does not identify its header
            self._voxels = frozenset(self._named())
        return any(_fits(name, written) for written in self._voxels)

    def _named(self) -> Iterator[str]:
        for other in self.names:
            try:
                yield from voxel_names(self.folder / other)
            except OSError:
                continue  # reported when the image is read


def _stem(name: str, endings: tuple[str, ...]) -> str:
    ending = next((candidate for candidate in endings if name.lower().endswith(candidate)), "")
    return name[: len(name) - len(ending)]


def _fits(name: str, written: str) -> bool:
    """Whether ``name`` matches the name in a header, which may contain a number pattern."""
    parts = [re.escape(literal) for literal in _NUMBER.split(written)]
    return re.fullmatch(r"\d+".join(parts), name) is not None
