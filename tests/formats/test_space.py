"""Voxel sizes: header fields that contradict each other, units, axes that are not at right angles."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.image import rectangularity
from mdkd_auto.formats.read_write import read_image, same_geometry, write_mask
from mdkd_auto.tasks.segmentation.training import score_case
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes

SHAPE = (6, 5, 4)  # x, y, z
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)
MASK = (VOXELS % 7 == 0).astype(np.uint8).T  # z, y, x
RULES = ("sform", "qform", "pixdim")


def write_nifti(path: Path, sform: Any = None, qform: Any = None, voxels: Any = VOXELS, **fields: Any) -> Path:
    """Forms of affines or of None for those that are not set; ``fields`` are set last, as they are stored."""
    image = nib.Nifti1Image(voxels, None)
    header = image.header
    header.set_qform(np.eye(4) if qform is None else qform, code=0 if qform is None else 1)
    header["sform_code"] = 0 if sform is None else 1
    for row, values in zip(("srow_x", "srow_y", "srow_z"), sform if sform is not None else (), strict=False):
        header[row] = values
    for name, value in fields.items():
        header[name] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_data_shape(voxels.shape)
    path.write_bytes(header.binaryblock + bytes(4) + voxels.tobytes(order="F"))
    return path


def diagonal(*steps: float) -> Any:
    return np.diag([*steps, 1.0])


def turned(steps: tuple[float, float, float], degrees: float = 20.0) -> Any:
    """Turned about z, with an origin."""
    a = np.deg2rad(degrees)
    affine = np.diag([*steps, 1.0])
    affine[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = (-30, 12, 7)
    return affine


@pytest.fixture
def cardiac(tmp_path: Path) -> Path:
    """Ten millimetres between slices, of which the s-form knows nothing."""
    return write_nifti(tmp_path / "cardiac.nii", turned((1, 1, 1)), turned((1.25, 1.25, 10)))


def test_sizes_that_contradict_each_other_are_an_error_with_all_three(cardiac: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(cardiac)
    assert caught.value.kind == "spacing-contradicts"
    assert "s-form 1 x 1 x 1, q-form 1.25 x 1.25 x 10, pixdim 1.25 x 1.25 x 10 mm" in str(caught.value)
    assert "spacing_from" in str(caught.value)
    assert "--spacing-from" in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "steps"), [("sform", (1, 1, 1)), ("qform", (1.25, 1.25, 10)), ("pixdim", (1.25, 1.25, 10))]
)
def test_the_rule_decides_for_the_image_and_for_its_mask(cardiac: Path, rule: Any, steps: Any, tmp_path: Path) -> None:
    image = read_image(cardiac, spacing_from=rule)
    assert image.spacing_mm == pytest.approx(steps[::-1])
    assert np.allclose(image.affine, turned(steps), atol=1e-5)
    write_mask(tmp_path / "mask.nii.gz", MASK, image.header)
    mask = read_image(tmp_path / "mask.nii.gz", spacing_from=rule)
    assert same_geometry(image, mask) is None
    assert np.array_equal(mask.array, MASK)
    others = write_nifti(tmp_path / "sound.nii", turned(steps), turned(steps))  # as a program writes it that agrees
    assert same_geometry(image, read_image(others, spacing_from=rule)) is None


def test_pixdim_takes_directions_and_origin_from_the_form_that_counts(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", turned((1, 1, 1), 20), turned((2, 2, 3), 5))
    assert np.allclose(read_image(path, spacing_from="pixdim").affine, turned((2, 2, 3), 20), atol=1e-5)
    assert np.allclose(read_image(path, spacing_from="qform").affine, turned((2, 2, 3), 5), atol=1e-5)


@pytest.mark.parametrize("rule", [None, "qform"])
def test_a_form_that_is_not_there_decides_nothing(rule: Any, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", diagonal(0.5, 0.5, 2), pixdim=[1, 1, 1, 1, 0, 0, 0, 0])
    with pytest.raises(ImageError, match="q-form not set"):
        read_image(path, spacing_from=rule)
    assert read_image(path, spacing_from="sform").spacing_mm == (2, 0.5, 0.5)


@pytest.mark.parametrize("rule", [None, *RULES])
def test_without_an_s_form_there_is_nothing_to_contradict(rule: Any, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "q.nii", None, turned((0.5, 0.75, 3)))
    assert np.allclose(read_image(path, spacing_from=rule).affine, turned((0.5, 0.75, 3)), atol=1e-5)
    path = write_nifti(tmp_path / "neither.nii", pixdim=[1, 0.5, 0.75, 3, 0, 0, 0, 0])
    assert read_image(path, spacing_from=rule).spacing_mm == (3, 0.75, 0.5)


def test_a_percent_is_rounding(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", diagonal(0.5, 0.5, 2), diagonal(0.504, 0.5, 2.015))
    assert read_image(path).spacing_mm == (2, 0.5, 0.5)
    with pytest.raises(ImageError, match="contradict"):
        read_image(write_nifti(tmp_path / "b.nii", diagonal(0.5, 0.5, 2), diagonal(0.5, 0.5, 2.03)))


@pytest.mark.parametrize("row", [0.0, np.nan, np.inf])
def test_an_s_form_that_nobody_can_use(row: float, tmp_path: Path) -> None:
    sform = np.array([[row] * 4, [0, 0.75, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "a.nii", sform, turned((0.5, 0.75, 3)))
    with pytest.raises(ImageError, match="contradict"):
        read_image(path)
    for rule in ("qform", "pixdim"):
        assert np.allclose(read_image(path, spacing_from=rule).affine, turned((0.5, 0.75, 3)), atol=1e-5)
    alone = write_nifti(tmp_path / "b.nii", sform, pixdim=[1, 0.5, 0.75, 3, 0, 0, 0, 0])
    assert read_image(alone, spacing_from="pixdim").spacing_mm == (3, 0.75, 0.5)


@pytest.mark.parametrize(("first", "sign"), [(-1, -1), (-3, -1), (0, 1), (1, 1), (4, 1)])
def test_the_first_number_of_pixdim_is_a_sign(first: float, sign: int, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", None, diagonal(1, 1, 2), pixdim=[first, 1, 1, 2, 0, 0, 0, 0])
    affine = read_image(path).header.affine
    assert affine is not None
    assert affine[2, 2] == 2 * sign


def test_a_negative_size_is_a_size(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", diagonal(-1, 1, 2), pixdim=[1, -1, 1, 2, 0, 0, 0, 0])
    assert np.allclose(read_image(path).header.affine, diagonal(-1, 1, 2))


@pytest.mark.parametrize("left_out", [0.0, np.nan, np.inf])
def test_sizes_that_pixdim_leaves_out_are_the_s_form_s(left_out: float, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", turned((0.5, 0.75, 3)), pixdim=[1, 0.5, 0.75, left_out, 0, 0, 0, 0])
    image = read_image(path)
    assert image.spacing_mm == pytest.approx((3, 0.75, 0.5))
    write_mask(tmp_path / "mask.nii", MASK, image.header)
    assert same_geometry(image, read_image(tmp_path / "mask.nii")) is None


def test_the_thickness_of_one_slice_contradicts_nothing(tmp_path: Path) -> None:
    slice_ = VOXELS[:, :, :1]
    path = write_nifti(tmp_path / "a.nii", diagonal(0.5, 0.5, 5), diagonal(0.5, 0.5, 1), voxels=slice_)
    assert read_image(path).spacing_mm[1:] == (0.5, 0.5)


@pytest.mark.parametrize(("code", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1)])
def test_units_of_nifti(code: int, mm: float, tmp_path: Path) -> None:
    sizes = np.array((0.5, 0.75, 3)) / mm
    path = write_nifti(tmp_path / "a.nii", diagonal(*sizes), diagonal(*sizes), xyzt_units=code)
    assert read_image(path).spacing_mm == pytest.approx((3, 0.75, 0.5))


def test_a_unit_of_nifti_that_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="xyzt_units"):
        read_image(write_nifti(tmp_path / "a.nii", diagonal(1, 1, 1), xyzt_units=5))


def test_forms_that_point_elsewhere_are_said(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", diagonal(-1, 1, 2), diagonal(1, 1, 2))
    (remark,) = read_image(path).remarks
    assert remark.kind == "forms-contradict"
    assert "LAS" in remark.found
    assert "RAS" in remark.found
    assert [read_image(path, spacing_from=rule).remarks for rule in ("sform", "qform")] == [(), ()]  # it is decided
    assert read_image(path, spacing_from="qform").affine[0, 0] == 1


SHEARED = np.array([[0.5, 0, 0, 0], [0, 0.5, 0.75, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]])  # slices 1 mm apart, 1.25 by step


def test_a_sheared_voxel_has_less_volume_than_its_sides_say(tmp_path: Path) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii", SHEARED, pixdim=[1, 0.5, 0.5, 1.25, 0, 0, 0, 0]))
    assert image.spacing_mm == (1.25, 0.5, 0.5)
    assert rectangularity(image.header) * np.prod(image.spacing_mm) == pytest.approx(0.25)
    (remark,) = image.remarks
    assert remark.kind == "sheared"
    assert "36.9 degrees" in remark.found  # of tangent 0.75
    write_mask(tmp_path / "mask.nii.gz", MASK, image.header)
    assert same_geometry(image, read_image(tmp_path / "mask.nii.gz")) is None


def test_one_slice_of_a_tilted_gantry_is_not_sheared(tmp_path: Path) -> None:
    pixdim = [1, 0.5, 0.5, 1.25, 0, 0, 0, 0]
    image = read_image(write_nifti(tmp_path / "a.nii", SHEARED, voxels=VOXELS[:, :, :1], pixdim=pixdim))
    assert (rectangularity(image.header), image.remarks) == (1.0, ())
    in_plane = np.array([[0.5, 0.3, 0, 0], [0, 0.4, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]])
    pixdim = [1, 0.5, 0.5, 1, 0, 0, 0, 0]
    image = read_image(write_nifti(tmp_path / "b.nii", in_plane, voxels=VOXELS[:, :, :1], pixdim=pixdim))
    assert rectangularity(image.header) == pytest.approx(0.8)


def test_volumes_of_scores_are_those_of_sheared_voxels(tmp_path: Path) -> None:
    truth = read_image(write_nifti(tmp_path / "a.nii", SHEARED, pixdim=[1, 0.5, 0.5, 1.25, 0, 0, 0, 0]))
    truth = replace(truth, array=np.zeros_like(MASK))
    classes = Classes(channels=(ClassChannel(name="heart", values=(1,), written=1),), regions=False, ignore=None)
    (scores,) = score_case(MASK, truth, classes).values()
    assert scores.false_positive_volume == pytest.approx(0.25 * MASK.sum())


def test_right_angles_are_exact(tmp_path: Path) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii", turned((0.7, 0.7, 3.3)), turned((0.7, 0.7, 3.3))))
    assert rectangularity(image.header) == 1.0
    assert image.remarks == ()


# --- NRRD, MetaImage ------------------------------------------------------------------------------------------------


def write_nrrd(path: Path, *lines: str, voxels: Any = VOXELS, encoding: str = "utf-8") -> Path:
    sizes = " ".join(map(str, voxels.shape))
    head = [
        "NRRD0005",
        "type: int16",
        f"dimension: {voxels.ndim}",
        f"sizes: {sizes}",
        *lines,
        "endian: little",
        "encoding: raw",
    ]
    path.write_bytes("\n".join(head).encode(encoding) + b"\n\n" + voxels.astype("<i2").tobytes(order="F"))
    return path


def directions(x: float, y: float, z: float) -> tuple[str, ...]:
    return (
        "space: left-posterior-superior",
        f"space directions: ({x},0,0) (0,{y},0) (0,0,{z})",
        f"space origin: ({10 * x},{20 * y},{-30 * z})",
    )


UNITS = {
    "mm": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 0.001,
    "microns": 0.001,
    "Millimeters": 1.0,
    "in": 25.4,
    "\N{MICRO SIGN}m": 0.001,
    "???": 1.0,
}


@pytest.mark.parametrize(("unit", "mm"), UNITS.items())
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_units_of_nrrd(unit: str, mm: float, encoding: str, tmp_path: Path) -> None:
    units = f'space units: "{unit}" "{unit}" "{unit}"'
    path = write_nrrd(tmp_path / "a.nrrd", *directions(0.5 / mm, 0.75 / mm, 3 / mm), units, encoding=encoding)
    image = read_image(path)
    assert image.spacing_mm == pytest.approx((3, 0.75, 0.5))
    assert image.header.affine is not None
    assert image.header.affine[:3, 3] == pytest.approx((-5, -15, -90))
    write_mask(tmp_path / "mask.nrrd", MASK, image.header)
    mask = read_image(tmp_path / "mask.nrrd")
    assert same_geometry(image, mask) is None
    assert np.array_equal(mask.array, MASK)
    seen_by_others = sitk.ReadImage(str(tmp_path / "mask.nrrd")).GetSpacing()
    assert seen_by_others == pytest.approx(sitk.ReadImage(str(path)).GetSpacing())  # neither reads the unit


def test_an_axis_or_a_coordinate_may_have_a_unit_of_its_own(tmp_path: Path) -> None:
    by_axis = write_nrrd(tmp_path / "a.nrrd", "spacings: 500 500 0.3", 'units: "um" "um" "cm"')
    by_coordinate = write_nrrd(tmp_path / "b.nrrd", *directions(500, 500, 0.3), 'space units: "um" "um" "cm"')
    for path in (by_axis, by_coordinate):
        image = read_image(path)
        assert image.spacing_mm == pytest.approx((3, 0.5, 0.5))
        write_mask(tmp_path / "mask.nrrd", MASK, image.header)
        assert same_geometry(image, read_image(tmp_path / "mask.nrrd")) is None


def test_units_of_a_slice(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", "spacings: 0.05 0.075", 'units: "cm" "cm"', voxels=VOXELS[:, :, 0])
    image = read_image(path)
    assert image.spacing_mm == pytest.approx((1, 0.75, 0.5))
    write_mask(tmp_path / "mask.nrrd", MASK[:1], image.header)
    assert read_image(tmp_path / "mask.nrrd").spacing_mm == pytest.approx((1, 0.75, 0.5))


def test_what_is_no_length_is_refused_or_no_spacing(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", *directions(1, 1, 1), 'space units: "s" "furlong" "mm"')
    with pytest.raises(ImageError, match=r"'s'; expected mm, cm"):
        read_image(path)
    path = write_nrrd(tmp_path / "b.nrrd", "spacings: 2 2 2", 'units: "pixels" "pixels" ""')
    assert not read_image(path).spacing_known
    assert not read_image(write_nrrd(tmp_path / "c.nrrd", "spacings: 2 2 nan")).spacing_known


def test_nrrd_sheared_and_a_key_named_like_a_field(tmp_path: Path) -> None:
    lines = ("space: left-posterior-superior", "space directions: (0.5,0,0) (0,0.5,0) (0,0.75,1)", "space units:=cm")
    image = read_image(write_nrrd(tmp_path / "a.nrrd", *lines))
    assert image.spacing_mm == pytest.approx((1.25, 0.5, 0.5))
    assert rectangularity(image.header) == pytest.approx(0.8)
    assert [remark.kind for remark in image.remarks] == ["sheared"]


@pytest.mark.parametrize(
    "lines",
    [(*directions(0.5, 0.5, 2), "spacings: 1 1 1"), ("spacings: 0.5 0.5 2", "axis mins: 0 0 0", "axis maxs: 6 5 4")],
)
def test_nrrd_that_contradicts_itself(lines: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(write_nrrd(tmp_path / "a.nrrd", *lines))
    assert caught.value.kind == "spacing-contradicts"


@pytest.mark.parametrize("highs", ["3 2.5 8", "2.5 2 6", "nan nan nan"])  # to the cells' edges, to their middles
def test_nrrd_that_says_the_same_twice(highs: str, tmp_path: Path) -> None:
    lines = ("spacings: 0.5 0.5 2", "axis mins: 0 0 0", f"axis maxs: {highs}")
    assert read_image(write_nrrd(tmp_path / "a.nrrd", *lines)).spacing_mm == (2, 0.5, 0.5)


def write_mha(path: Path, *lines: str, data_file: str = "LOCAL") -> Path:
    head = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "DimSize = 6 5 4",
        *lines,
        "ElementType = MET_SHORT",
        f"ElementDataFile = {data_file}",
        "",
    ]
    path.write_bytes("\n".join(head).encode() + (VOXELS.tobytes(order="F") if data_file == "LOCAL" else b""))
    return path


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("cm", 10.0), ("um", 0.001), ("?", 1.0)])
def test_units_of_metaimage(unit: str, mm: float, tmp_path: Path) -> None:
    spacing = f"ElementSpacing = {0.5 / mm} {0.75 / mm} {3 / mm}"
    image = read_image(write_mha(tmp_path / "a.mha", f"DistanceUnits = {unit}", spacing, f"Offset = {5 / mm} 0 0"))
    assert image.spacing_mm == pytest.approx((3, 0.75, 0.5))
    write_mask(tmp_path / "mask.mha", MASK, image.header)
    assert same_geometry(image, read_image(tmp_path / "mask.mha")) is None


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (("ElementSpacing = 0.5 0.5 2", "ElementSize = 1 1 2"), "spacing-contradicts"),
        (("ElementSpacing = 0.5 0.5 2", "TransformMatrix = 2 0 0 0 2 0 0 0 2"), "spacing-contradicts"),
        (("ElementSpacing = 0.5 0.5 2", "ElementSpacing = 1 1 1"), "header-contradicts"),
        (("ElementSpacing = 1 1 1", "Offset = 1 2 3", "Position = 4 5 6"), "header-contradicts"),
        (("ElementSpacing = 1 1 1", "ElementByteOrderMSB = True"), "header-contradicts"),
        (("ElementSpacing = 1 1 1", "HeaderSize = 16"), "header-contradicts"),
        (("ElementSpacing = 1 1 1", "ElementToIntensityFunctionSlope = 2"), "header-contradicts"),
        (("ElementSpacing = 1 1 1", "ElementToIntensityFunctionOffset = -1024"), "header-contradicts"),
    ],
)
def test_metaimage_that_contradicts_itself(lines: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(write_mha(tmp_path / "a.mha", *lines))
    assert caught.value.kind == kind


def test_metaimage_that_says_the_same_twice(tmp_path: Path) -> None:
    lines = (
        "ElementSize = 0.5 0.5 5",
        "ElementSpacing = 0.5 0.500001 2",
        "Offset = 1 2 3",
        "Position = 1 2 3",
        "ElementSize = 0.5 0.5 5",
        "ElementByteOrderMSB = false",
        "ElementToIntensityFunctionSlope = 1.0",
        "ElementToIntensityFunctionOffset = 0",
        "HeaderSize = 0",
    )
    assert read_image(write_mha(tmp_path / "a.mha", *lines)).spacing_mm[0] == 2  # 5 mm thick slices, 2 mm apart


def test_voxels_of_a_file_of_their_own_begin_where_the_header_says(tmp_path: Path) -> None:
    header = write_mha(tmp_path / "a.mhd", "ElementSpacing = 0.5 0.5 2", "HeaderSize = 10", data_file="a.raw")
    (tmp_path / "a.raw").write_bytes(b"ten bytes." + VOXELS.tobytes(order="F"))
    np.testing.assert_array_equal(read_image(header).array, VOXELS.T[:, ::-1, ::-1])  # from LPS to RAS
    (tmp_path / "a.raw").write_bytes((b"ten bytes." + VOXELS.tobytes(order="F"))[:-2])
    with pytest.raises(ImageError, match="truncated: 238 bytes of voxels where its header promises 240"):
        read_image(header)


@pytest.mark.parametrize(
    "name",
    ["/etc/hostname", "../secret.raw", "..\\secret.raw", "C:\\secret.raw", "LIST\n../a.raw", "../%03d.raw 1 4 1"],
)
def test_voxels_are_not_taken_from_outside_of_the_header_s_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(ImageError, match="takes voxels from"):
        read_image(write_mha(folder / "a.mhd", data_file=name))
    with pytest.raises(ImageError, match="takes voxels from"):
        read_image(write_nrrd(folder / "a.nrrd", f"data file: {name}"))
