"""Images with their geometry, and the mapping between file axes and canonical axes.

Canonical axes are (z, y, x): z from inferior to superior, y from posterior to anterior, x from left to right.
An oblique image is not resampled: each of its axes is assigned to the closest canonical one.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.records import IntTriple, Triple
from mdkd_auto.formats.exif import TURNS, UPRIGHT

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]  # (4, 4), voxel indices (x, y, z order) -> mm in RAS world space

SPACING_TOLERANCE = 1e-3  # relative
POSITION_TOLERANCE = 1e-2  # voxels
DIRECTION_TOLERANCE = 1e-2  # deviation of an axis step's end point, in voxels
SHEAR_TOLERANCE = 1e-3  # fraction of a voxel's volume; less is rounding


@dataclass(frozen=True, eq=False)
class Orientation:
    """Map a file's axes (i, j, k) to canonical axes. Canonical here is (x, y, z), the reverse of array order."""

    axes: IntTriple = (0, 1, 2)  # file axis of each canonical axis
    flips: tuple[bool, bool, bool] = (False, False, False)  # per canonical axis


@dataclass(frozen=True, eq=False)
class ItkGeometry:
    """SimpleITK's geometry of a file, in its own axes, LPS world space and the file's unit."""

    spacing: tuple[float, ...]  # (x, y) or (x, y, z)
    origin: tuple[float, ...]
    direction: tuple[float, ...]  # row-major
    unit: str = ""  # "": mm


@dataclass(frozen=True, eq=False)
class Header:
    """Everything needed to write a mask back in the geometry of the source file."""

    ending: str  # .nii.gz
    shape: IntTriple  # canonical (z, y, x)
    dimensions: int = 3  # axes in the file: 2 or 3
    orientation: Orientation = Orientation()
    affine: Affine | None = None  # for file axes (i, j, k); None for images without world coordinates
    nifti: bytes = b""  # the complete NIfTI header: q-form, s-form, their codes, units
    itk: ItkGeometry | None = None
    segments: tuple[tuple[str, int], ...] = ()  # names the file gives to mask values, as in 3-D Slicer
    exif: int = UPRIGHT  # orientation from which the stored image was rotated upright


class Remark(NamedTuple):
    """A warning about one file: a kind of data.problems.KINDS, and the details."""

    kind: str
    found: str


@dataclass(frozen=True, eq=False)
class Image:
    """Voxels in canonical orientation (a 2-D image as stored, z = 1)."""

    array: Array  # (z, y, x), integer if the file is, otherwise float32
    spacing_mm: Triple  # (z, y, x): side lengths of a voxel, rectangular or not; 1.0 per axis if unknown
    spacing_known: bool
    header: Header
    remarks: tuple[Remark, ...] = ()

    @property
    def affine(self) -> Affine | None:
        """Canonical indices (x, y, z) -> RAS mm; None for images without world coordinates."""
        if self.header.affine is None:
            return None
        return canonical_affine(self.header.affine, self.header.orientation, self.header.shape)


class Difference(NamedTuple):
    """The difference between two grids."""

    kind: str  # shape, spacing, direction, origin
    text: str


def closest_orientation(affine: Affine) -> Orientation:
    """Return the axes and flips closest to RAS. Raises ImageError for an unusable affine."""
    from nibabel.orientations import io_orientation

    if not np.isfinite(affine).all():
        raise ImageError("its affine holds NaN or infinite values; export the image anew")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if (sizes <= 0).any() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise ImageError(f"its affine gives voxels without volume (sizes {sizes.tolist()} mm); export the image anew")
    to_ras = io_orientation(affine)  # (file axis, [canonical axis, sign])
    axes = np.argsort(to_ras[:, 0])
    flips = to_ras[axes, 1] < 0
    return Orientation((int(axes[0]), int(axes[1]), int(axes[2])), (bool(flips[0]), bool(flips[1]), bool(flips[2])))


def to_canonical(voxels: Array, orientation: Orientation) -> Array:
    """File axes (i, j, k) -> canonical (z, y, x), a contiguous copy."""
    turned = voxels.transpose(orientation.axes)
    turned = np.flip(turned, tuple(np.flatnonzero(orientation.flips)))
    return np.array(turned.T, order="C", copy=True)


def from_canonical(array: Array, orientation: Orientation) -> Array:
    """Canonical (z, y, x) -> file axes (i, j, k)."""
    turned = np.flip(array.T, tuple(np.flatnonzero(orientation.flips)))
    return turned.transpose(np.argsort(orientation.axes))


def to_upright(pixels: Array, exif: int) -> Array:
    """Rotate (..., y, x) upright from its EXIF orientation."""
    turn = TURNS[exif]
    turned = np.swapaxes(pixels, -1, -2) if turn.swap else pixels
    return turned[..., :: -1 if turn.mirror_y else 1, :: -1 if turn.mirror_x else 1]


def canonical_affine(affine: Affine, orientation: Orientation, shape: IntTriple) -> Affine:
    """Return the affine of the canonical voxels; ``shape`` is canonical (z, y, x)."""
    to_file = np.zeros((4, 4))
    to_file[3, 3] = 1
    for axis, (file_axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        to_file[file_axis, axis] = -1 if flip else 1
        to_file[file_axis, 3] = shape[2 - axis] - 1 if flip else 0
    return affine @ to_file


def canonical_spacing(affine: Affine, orientation: Orientation) -> Triple:
    """Return the voxel size (z, y, x) in mm."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)[list(orientation.axes)]
    return (float(sizes[2]), float(sizes[1]), float(sizes[0]))


def rectangularity(header: Header) -> float:
    """Return a voxel's volume (or a pixel's area, for a single slice) as a fraction of its sides' product.

    1.0 unless the grid is sheared, e.g. by gantry tilt.
    """
    if header.affine is None:
        return 1.0
    cosines = _cosines(header.affine, header)
    fraction = float(np.sqrt(max(0.0, np.linalg.det(cosines.T @ cosines))))
    return 1.0 if fraction > 1 - SHEAR_TOLERANCE else fraction


def shear_remarks(header: Header) -> tuple[Remark, ...]:
    """Report axes that are not at right angles."""
    if header.affine is None or rectangularity(header) == 1.0:
        return ()
    cosines = _cosines(header.affine, header)
    largest = float(np.abs(cosines.T @ cosines - np.eye(cosines.shape[1])).max())
    degrees = np.degrees(np.arcsin(min(1.0, largest)))
    return (Remark("sheared", f"its axes are not at right angles but {degrees:.3g} degrees off"),)


def same_geometry(a: Image, b: Image) -> str | None:
    """Describe how two images differ in size, spacing or position; None if they share one grid."""
    difference = compare_geometry(a, b)
    return None if difference is None else difference.text


def compare_geometry(a: Image, b: Image) -> Difference | None:
    """Compare size, spacing and position of two images; None if they share one grid."""
    if a.array.shape != b.array.shape:
        return Difference("shape", f"the sizes differ: {a.array.shape} and {b.array.shape} voxels (z, y, x)")
    if a.spacing_known and b.spacing_known and not np.allclose(a.spacing_mm, b.spacing_mm, SPACING_TOLERANCE, 0):
        text = f"the spacings differ: {_text(a.spacing_mm)} and {_text(b.spacing_mm)} mm (z, y, x)"
        return Difference("spacing", text)
    first, second = a.affine, b.affine
    if first is None or second is None:
        return None
    step = np.linalg.inv(first) @ second - np.eye(4)  # in voxels of a
    if np.abs(step[:3, :3]).max() > DIRECTION_TOLERANCE:
        text = f"the directions of the axes differ: {_directions(first)} and {_directions(second)} (RAS)"
        return Difference("direction", text)
    if np.abs(step[:3, 3]).max() > POSITION_TOLERANCE:
        text = f"the origins differ: {_text(first[:3, 3])} and {_text(second[:3, 3])} mm (x, y, z in RAS)"
        return Difference("origin", text)
    return None


def axis_codes(header: Header) -> str:
    """Return the directions of the file's axes, such as LPS; "" for images without world coordinates."""
    if header.affine is None:
        return ""
    codes = [""] * 3
    for canonical, (file_axis, flip) in enumerate(zip(header.orientation.axes, header.orientation.flips, strict=True)):
        codes[file_axis] = ("LPI" if flip else "RAS")[canonical]
    return "".join(codes)


def check_mask(mask: Array, shape: IntTriple) -> Array:
    """Return the mask as uint8, or uint16 if a label exceeds 255. Raises ImageError for a wrong shape or type."""
    if mask.shape != shape:
        raise ImageError(f"the mask has {mask.shape} voxels (z, y, x), its image {shape}")
    if mask.dtype.kind not in "bui":
        raise ImageError(f"the mask holds {mask.dtype} values; labels are whole numbers")
    lowest, highest = int(mask.min()), int(mask.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise ImageError(f"the mask holds labels {lowest} to {highest}; 0 to 65535 can be written")
    return mask.astype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)


def spatial_shape(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return two or three sizes without trailing axes of size one. Raises ImageError for anything else."""
    kept = tuple(sizes)
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) not in {2, 3}:
        raise ImageError(f"it has {len(sizes)} axes {tuple(sizes)}; split it into one 2-D or 3-D file a channel")
    if min(kept) < 1:
        raise ImageError(f"it has no voxels: sizes {tuple(sizes)}")
    return kept


def _cosines(affine: Affine, header: Header) -> npt.NDArray[np.float64]:
    """Direction cosines (3, axes) of the canonical x, y and, unless there is a single slice, z."""
    steps = affine[:3, list(header.orientation.axes)[: 2 if header.shape[0] == 1 else 3]]
    cosines: npt.NDArray[np.float64] = steps / np.linalg.norm(steps, axis=0)
    return cosines


def _text(values: Any) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _directions(affine: Affine) -> str:
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return " ".join(_text(column) for column in cosines.T)
