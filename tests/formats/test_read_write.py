import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip
from PIL import Image as Pillow

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.read_write import image_ending, output_ending, read_image, read_mask, same_geometry, write_mask

# A canonical volume (x, y, z in RAS) and its affine; files hold it with turned and mirrored axes.
RAS = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5) - 7
SPACING = (0.5, 0.75, 2.5)  # mm, x y z
CANONICAL_AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.75, 0, 20], [0, 0, 2.5, -30.0], [0, 0, 0, 1]])
ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def turned(axes, flips, affine=CANONICAL_AFFINE):
    """(voxels, affine) of RAS with file axis n running along canonical axis axes[n], backwards where flips[n]."""
    voxels = np.flip(RAS.transpose(axes), [n for n in range(3) if flips[n]] or ())
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for n in range(3):
        step[axes[n], n] = -1 if flips[n] else 1
        step[axes[n], 3] = voxels.shape[n] - 1 if flips[n] else 0
    return np.ascontiguousarray(voxels), affine @ step


def rotation(degrees):
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def write_nifti(path, voxels, affine, kind=nib.Nifti1Image, **fields):
    image = kind(voxels, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def write_itk(path, voxels, affine, compress=True):
    """``voxels`` in file axes (i, j, k), ``affine`` in RAS."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


def canonical_mask(image):
    return (image.array > 10).astype(np.uint8) * 3


def assert_same_place(written, original):
    a, b = sitk.ReadImage(str(written)), sitk.ReadImage(str(original))
    assert a.GetSize() == b.GetSize()
    np.testing.assert_allclose(a.GetSpacing(), b.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(a.GetOrigin(), b.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(a.GetDirection(), b.GetDirection(), atol=1e-6)
    stored = sitk.GetArrayFromImage(a)
    np.testing.assert_array_equal(stored, (sitk.GetArrayFromImage(b) > 10) * 3)
    assert stored.dtype == np.uint8


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_all_orientations_read_as_one_and_masks_return_to_their_place(tmp_path, ending):
    for number, (axes, flips) in enumerate(ORIENTATIONS):
        voxels, affine = turned(axes, flips)
        path = tmp_path / f"{number}{ending}"
        (write_nifti if ending.startswith(".nii") else write_itk)(path, voxels, affine)
        image = read_image(path)
        np.testing.assert_array_equal(image.array, RAS.T)
        assert image.array.dtype == np.int16
        assert image.array.flags.c_contiguous
        assert image.array.flags.writeable
        np.testing.assert_allclose(image.spacing_mm, SPACING[::-1], rtol=1e-6)
        np.testing.assert_allclose(image.affine, CANONICAL_AFFINE, atol=1e-5)
        mask_path = tmp_path / f"{number}_mask{ending}"
        write_mask(mask_path, canonical_mask(image), image.header)
        assert_same_place(mask_path, path)
        mask = read_image(mask_path)
        np.testing.assert_array_equal(mask.array, canonical_mask(image))
        assert same_geometry(image, mask) is None


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("degrees", [0, 17, -40, 100])
def test_nifti_mask_keeps_every_field_of_the_geometry(tmp_path, kind, degrees):
    oblique = CANONICAL_AFFINE.copy()
    oblique[:3, :3] = rotation(degrees) @ oblique[:3, :3]
    voxels, affine = turned((2, 0, 1), (True, False, False), oblique)
    path = write_nifti(tmp_path / "a.nii.gz", voxels, affine, kind, descrip=b"scanner", xyzt_units=10)
    image = read_image(path)
    write_mask(tmp_path / "mask.nii.gz", canonical_mask(image), image.header)
    original, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert type(mask) is kind
    assert mask.shape == original.shape
    assert mask.get_data_dtype() == np.uint8
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b"):
        np.testing.assert_array_equal(mask.header[field], original.header[field], err_msg=field)
    np.testing.assert_array_equal(mask.affine, original.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), (voxels > 10) * 3)
    np.testing.assert_allclose(np.sort(image.spacing_mm), np.sort(SPACING), rtol=1e-6)


def test_oblique_nifti_takes_the_closest_axes(tmp_path):
    affine = CANONICAL_AFFINE.copy()
    affine[:3, :3] = rotation(20) @ affine[:3, :3]
    voxels, affine = turned((1, 2, 0), (False, True, True), affine)
    np.testing.assert_array_equal(read_image(write_nifti(tmp_path / "a.nii", voxels, affine)).array, RAS.T)


def test_nifti_scale_float_endianness_and_units(tmp_path):
    voxels, affine = turned((0, 1, 2), (False, False, False))
    scaled = nib.Nifti1Image(voxels, affine)
    scaled.header.set_slope_inter(2, 100)
    nib.save(scaled, tmp_path / "scaled.nii")
    image = read_image(tmp_path / "scaled.nii")
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.array, np.asarray(nib.load(tmp_path / "scaled.nii").dataobj).T)
    write_nifti(tmp_path / "double.nii", voxels.astype(np.float64) / 3, affine)
    np.testing.assert_array_equal(read_image(tmp_path / "double.nii").array, (RAS.T / 3).astype(np.float32))
    big = nib.Nifti1Image(voxels, affine, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    image = read_image(tmp_path / "big.nii")
    np.testing.assert_array_equal(image.array, RAS.T)
    labels = canonical_mask(image).astype(np.int32) * 200  # 600: two bytes, in the file's byte order
    write_mask(tmp_path / "big_mask.nii", labels, image.header)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "big_mask.nii").dataobj), labels.T)
    metres = affine.copy()
    metres[:3] /= 1000
    image = read_image(write_nifti(tmp_path / "metres.nii", voxels, metres, xyzt_units=1))
    np.testing.assert_allclose(image.spacing_mm, SPACING[::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("slope", "intercept", "stored"),
    [(0.99999994, 2.3e-8, 3), (0.5, 0, 6), (1 / 3, 0, 9), (-1, 0, -3), (1 / 85, 0, 255), (np.nan, np.nan, 3)],
)
def test_labels_that_the_header_scales_are_whole(tmp_path, slope, intercept, stored):
    voxels = np.zeros((3, 4, 5), dtype=np.int16)
    voxels[1, 1:3, 2] = stored
    path = write_nifti(tmp_path / "a.nii", voxels, np.eye(4))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(content)
    assert np.unique(read_mask(path).array, return_counts=True)[0].tolist() == [0, 3]
    assert np.count_nonzero(read_mask(path).array == 3) == 2


def test_fractions_and_values_that_are_none_stay_what_they_are(tmp_path):
    for value in (0.5, 0.999, np.nan, np.inf):
        voxels = np.zeros((3, 4, 5), dtype=np.float32)
        voxels[1, 1, 1] = value
        array = read_mask(write_nifti(tmp_path / "a.nii", voxels, np.eye(4))).array
        assert np.array_equal(array.max(), np.float32(value), equal_nan=True)


def test_nifti_axes_of_size_one(tmp_path):
    path = write_nifti(tmp_path / "a.nii", RAS[..., None], CANONICAL_AFFINE)
    image = read_image(path)
    np.testing.assert_array_equal(image.array, RAS.T)
    flat = read_image(write_nifti(tmp_path / "flat.nii", RAS[:, :, 0], CANONICAL_AFFINE))
    assert flat.array.shape == (1, 4, 3)
    write_mask(tmp_path / "flat_mask.nii.gz", canonical_mask(flat), flat.header)
    assert nib.load(tmp_path / "flat_mask.nii.gz").shape == (3, 4)
    series = write_nifti(tmp_path / "series.nii", np.stack([RAS, RAS], -1), CANONICAL_AFFINE)
    with pytest.raises(ImageError, match=r"series\.nii: it has 4 axes"):
        read_image(series)


def test_nifti_colour_and_geometry_nobody_can_use_are_refused(tmp_path):
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(ImageError, match="colour or complex"):
        read_image(tmp_path / "rgb.nii")
    unplaced = write_nifti(tmp_path / "a.nii", RAS, CANONICAL_AFFINE)
    content = bytearray(unplaced.read_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    content[80:92] = bytes(12)  # pixdim[1:4]
    (tmp_path / "zero.nii").write_bytes(content)
    with pytest.raises(ImageError, match="pixdim"):
        read_image(tmp_path / "zero.nii")
    for name, first, number, message in [
        ("nan.nii", 280, np.nan, "s-form nan x nan x nan, q-form 0.5 x 0.75 x 2.5"),  # srow_x
        ("thin.nii", 312, 0.0, "s-form 0.5 x 0.75 x 0, q-form 0.5 x 0.75 x 2.5"),  # srow_z
    ]:
        content = bytearray(unplaced.read_bytes())
        content[first : first + 16] = np.full(4, number, np.float32).tobytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name)


def array_or_message(path):
    """The voxels, or what the ImageError says; any other exception passes."""
    try:
        return read_image(path).array
    except ImageError as error:
        return str(error)


SAMPLES: dict[str, bytes] = {}  # name -> a whole file with incompressible voxels
NAMES = ["a.nii.gz", "a.nii", "a.nrrd", "raw.nrrd", "a.mha", "raw.mha", "a.png", "a.jpg", "a.bmp", "raw.tif", "a.tif"]


@pytest.fixture(scope="module", autouse=True)
def _samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    generator = np.random.default_rng(0)
    volume = generator.integers(-1000, 1000, (9, 10, 11)).astype(np.int16)
    flat = generator.integers(0, 255, (40, 50)).astype(np.uint8)
    for ending in (".nii.gz", ".nii"):
        write_nifti(folder / f"a{ending}", volume, CANONICAL_AFFINE)
    for name, compress in (("a.nrrd", True), ("raw.nrrd", False), ("a.mha", True), ("raw.mha", False)):
        write_itk(folder / name, volume, CANONICAL_AFFINE, compress)
    for ending in (".png", ".jpg", ".bmp"):
        Pillow.fromarray(flat).save(folder / f"a{ending}")
    tifffile.imwrite(folder / "raw.tif", flat)
    tifffile.imwrite(folder / "a.tif", flat, compression="zlib")
    Pillow.fromarray(flat).save(folder / "lzw.tif", compression="tiff_lzw")
    SAMPLES.update({path.name: path.read_bytes() for path in folder.iterdir()})


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", [*NAMES, "lzw.tif"])
def test_truncated_files_are_refused(tmp_path, name):
    whole = SAMPLES[name]
    path = tmp_path / name
    path.write_bytes(whole)
    expected = read_image(path).array
    for kept in [*np.linspace(0, len(whole) - 1, 23).astype(int), len(whole) - 8, len(whole) - 2]:
        path.write_bytes(whole[:kept])
        found = array_or_message(path)
        if isinstance(found, str):
            assert str(path) in found
        else:  # only a trailer was lost
            assert kept > len(whole) * 0.9
            np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["a.nii.gz", "a.nrrd", "a.mha", "a.png"]), st.data())
def test_flipped_bits_in_compressed_voxels_are_refused(tmp_path_factory, name, data):
    """But for the few bits that mean nothing: codes that no voxel uses. Then the voxels are the same."""
    whole = bytearray(SAMPLES[name])
    start = {"a.nii.gz": 20, "a.nrrd": whole.find(b"\n\n") + 20, "a.mha": len(whole) // 2, "a.png": 60}[name]
    bit = data.draw(st.integers(start * 8, (len(whole) - 20) * 8))
    whole[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.getbasetemp() / f"flipped_{name}"
    path.write_bytes(whole)
    found = array_or_message(path)
    if isinstance(found, str):
        assert "flipped_" in found
    else:
        path.write_bytes(SAMPLES[name])
        np.testing.assert_array_equal(found, read_image(path).array)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.binary(max_size=500), st.integers(0, 400))
def test_garbage_is_an_image_error_or_an_image(tmp_path_factory, name, garbage, kept):
    path = tmp_path_factory.getbasetemp() / f"garbage_{name}"
    path.write_bytes(SAMPLES[name][:kept] + garbage)
    logging.disable(logging.CRITICAL)
    found = array_or_message(path)
    logging.disable(logging.NOTSET)
    assert not isinstance(found, str) or path.name in found


def test_missing_and_unsupported_files(tmp_path):
    with pytest.raises(ImageError, match=r"a\.nii\.gz: the file does not exist"):
        read_image(tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=r"\.gif.*endings: \.nii\.gz"):
        read_image(tmp_path / "a.gif")
    (tmp_path / "b.nii.gz").write_bytes(igzip.compress(b"hello" * 100))
    with pytest.raises(ImageError, match="does not begin like a NIfTI"):
        read_image(tmp_path / "b.nii.gz")


def test_endings():
    assert image_ending(Path("x/Scan.1.NII.GZ")) == ".nii.gz"
    assert output_ending(".jpg") == output_ending(".jpeg") == ".png"
    assert output_ending(".nii.gz") == ".nii.gz"
    assert output_ending(".mhd") == ".mha"


def test_itk_without_spacing_2d_colour_and_two_files(tmp_path):
    flat = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = sitk.GetImageFromArray(flat)
    image.SetSpacing((0.2, 0.3))
    image.SetOrigin((5, 6))
    for ending in (".mha", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        read = read_image(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(read.array, flat[None])
        assert (read.spacing_mm, read.spacing_known) == ((1.0, 0.3, 0.2), True)
        write_mask(tmp_path / f"mask{ending}", read.array * 10, read.header)
        mask = sitk.ReadImage(str(tmp_path / f"mask{ending}"))
        assert (mask.GetSize(), mask.GetSpacing(), mask.GetOrigin()) == ((4, 3), (0.2, 0.3), (5, 6))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), flat * 10)
    (tmp_path / "bare.nrrd").write_bytes(
        b"NRRD0004\ntype: unsigned char\ndimension: 2\nsizes: 4 3\nencoding: raw\n\n" + flat.tobytes()
    )
    assert not read_image(tmp_path / "bare.nrrd").spacing_known
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 3), np.uint8), isVector=True), str(tmp_path / "rgb.mha"))
    with pytest.raises(ImageError, match="3 values a voxel"):
        read_image(tmp_path / "rgb.mha")
    write_itk(tmp_path / "two.mhd", RAS, CANONICAL_AFFINE)
    two = read_image(tmp_path / "two.mhd")
    np.testing.assert_array_equal(two.array, RAS.T)
    write_mask(tmp_path / "two_mask.mha", canonical_mask(two), two.header)
    assert_same_place(tmp_path / "two_mask.mha", tmp_path / "two.mhd")
    next(tmp_path.glob("two.*raw")).unlink()
    with pytest.raises(ImageError, match="not beside it"):
        read_image(tmp_path / "two.mhd")


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".tif"])
def test_planar_images_and_their_masks(tmp_path, ending):
    grey = np.tile(np.arange(0, 250, 25, dtype=np.uint8), (6, 1))
    Pillow.fromarray(grey).save(tmp_path / f"grey{ending}", **({"quality": 100} if ending == ".jpg" else {}))
    image = read_image(tmp_path / f"grey{ending}")
    np.testing.assert_allclose(image.array, grey[None], atol=2)
    assert image.array.dtype == np.uint8
    assert (image.spacing_mm, image.spacing_known, image.affine) == ((1.0, 1.0, 1.0), False, None)
    labels = (image.array > 100).astype(np.int64) * 2
    path = tmp_path / f"mask{output_ending(ending)}"
    write_mask(path, labels, image.header)
    np.testing.assert_array_equal(read_image(path).array, labels)
    assert same_geometry(image, read_image(path)) is None
    if ending == ".jpg":
        with pytest.raises(ImageError, match=r"\.png"):
            write_mask(tmp_path / "mask.jpg", labels, image.header)
        assert not (tmp_path / "mask.jpg").exists()


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits(tmp_path, ending):
    deep = np.arange(12, dtype=np.uint16).reshape(1, 3, 4) * 5000
    Pillow.fromarray(deep[0]).save(tmp_path / f"deep{ending}")
    image = read_image(tmp_path / f"deep{ending}")
    assert image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array, deep)
    write_mask(tmp_path / f"mask{ending}", image.array, image.header)
    np.testing.assert_array_equal(read_image(tmp_path / f"mask{ending}").array, deep)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_colour_reads_as_grey_only_where_it_is_grey(tmp_path, ending):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Pillow.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / f"grey{ending}")
    np.testing.assert_array_equal(read_image(tmp_path / f"grey{ending}").array, grey[None])
    Pillow.fromarray(np.stack([grey, grey, grey + 1], -1)).save(tmp_path / f"colour{ending}")
    with pytest.raises(ImageError, match="convert it to grey, or save one file a channel"):
        read_image(tmp_path / f"colour{ending}")
    alpha = np.stack([grey, grey, grey, grey * 0 + 255], -1)
    Pillow.fromarray(alpha).save(tmp_path / f"alpha{ending}")
    np.testing.assert_array_equal(read_image(tmp_path / f"alpha{ending}").array, grey[None])


@pytest.mark.parametrize("compression", [None, "zlib", "tiff_lzw"])
def test_multi_page_tiff_is_a_volume(tmp_path, compression):
    volume = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    if compression == "tiff_lzw":
        pages = [Pillow.fromarray(page) for page in volume]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    else:
        tifffile.imwrite(tmp_path / "a.tif", volume, compression=compression, photometric="minisblack")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array, volume)
    write_mask(tmp_path / "mask.tif", volume, image.header)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), volume)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    image = read_image(write_nifti(tmp_path / "a.nii", RAS, CANONICAL_AFFINE))
    for mask, message in [
        (np.zeros((5, 4, 4), np.uint8), "its image"),
        (np.zeros((5, 4, 3), np.float32), "whole numbers"),
        (np.full((5, 4, 3), -1), "labels -1"),
        (np.full((5, 4, 3), 70000), "65535"),
    ]:
        with pytest.raises(ImageError, match=message):
            write_mask(tmp_path / "mask.nii", mask, image.header)
    with pytest.raises(ImageError, match=r"written as \.nii"):
        write_mask(tmp_path / "mask.png", np.zeros((5, 4, 3), np.uint8), image.header)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_same_geometry_names_the_difference(tmp_path):
    def variant(name, voxels=RAS, affine=CANONICAL_AFFINE):
        return read_image(write_nifti(tmp_path / name, voxels, affine))

    image = variant("a.nii")
    shifted, tilted, stretched = (CANONICAL_AFFINE.copy() for _ in range(3))
    shifted[0, 3] += 0.1  # a fifth of a voxel
    tilted[:3, :3] = rotation(5) @ tilted[:3, :3]
    stretched[2, 2] *= 1.01
    assert same_geometry(image, variant("b.nii", *turned((2, 1, 0), (True, False, True)))) is None
    assert "sizes differ" in same_geometry(image, variant("c.nii", RAS[1:]))
    assert "origins differ" in same_geometry(image, variant("d.nii", affine=shifted))
    assert "directions" in same_geometry(image, variant("e.nii", affine=tilted))
    assert "spacings differ" in same_geometry(image, variant("f.nii", affine=stretched))
