"""TIFF in its many forms: one picture, one array; and chains of pages that would not come to an end."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.planar import planar_frame
from mdkd_auto.formats.read_write import read_image, read_mask, write_mask
from mdkd_auto.formats.tiff import MOST_PAGES, check_chain

FLAT = (np.arange(20 * 24).reshape(20, 24) * 7 % 251).astype(np.uint8)
COMPRESSIONS = [None, "zlib", "lzw", "packbits", "zstd", "lzma"]
STORED = {  # as in EXIF: the picture 0 1 2 / 3 4 5
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[2, 5], [1, 4], [0, 3]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[3, 0], [4, 1], [5, 2]],
}


class Page(NamedTuple):
    """A page of 8-bit grey: where its strip lies, and the number of the page that follows (None: the next)."""

    width: int
    height: int
    strip: tuple[int, int]  # offset, bytes
    following: int | None = None
    compression: int = 1


def tiff(pages, data, start=8):
    """A little-endian TIFF byte by byte: ``data`` from byte ``start`` on, then the pages' directories."""
    size = 2 + 12 * 9 + 4
    places = [start + len(data) + size * number for number in range(len(pages))]
    content = b"II*\0" + struct.pack("<I", places[0]) + bytes(start - 8) + data
    for number, page in enumerate(pages):
        entries = [
            (256, 4, page.width),
            (257, 4, page.height),
            (258, 3, 8),
            (259, 3, page.compression),
            (262, 3, 1),
            (273, 4, page.strip[0]),
            (277, 3, 1),
            (278, 4, page.height),
            (279, 4, page.strip[1]),
        ]
        content += struct.pack("<H", len(entries))
        content += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
        following = number + 1 if page.following is None else page.following
        content += struct.pack("<I", places[following] if following < len(pages) else 0)
    return content


def read(tmp_path, pixels, reader=read_image, **options):
    """What is read of pixels written by tifffile, (z, y, x)."""
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    return reader(tmp_path / "a.tif").array


def refused(path, words, reader=read_image):
    with pytest.raises(ImageError, match=words):
        reader(path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_min_is_white_is_inverted_whatever_the_compression(tmp_path, compression):
    plain = read(tmp_path, FLAT, photometric="minisblack", compression=compression)
    white = read(tmp_path, 255 - FLAT, photometric="miniswhite", compression=compression)
    deep = read(tmp_path, 65535 - FLAT.astype(np.uint16) * 200, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(plain, FLAT[None])
    np.testing.assert_array_equal(white, FLAT[None])
    np.testing.assert_array_equal(deep, FLAT[None].astype(np.uint16) * 200)
    assert (plain.dtype, white.dtype, deep.dtype) == (np.uint8, np.uint8, np.uint16)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "tiff_lzw", "packbits", None])
def test_one_bit_of_either_polarity(tmp_path, compression):
    bits = FLAT > 100
    for polarity in (0, 1):
        Pillow.fromarray(bits).save(tmp_path / "a.tif", compression=compression, tiffinfo={262: polarity})
        assert tifffile.TiffFile(tmp_path / "a.tif").pages[0].photometric == polarity
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, bits[None] * 255)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif").array, bits[None])


def test_min_is_white_without_a_largest_value_and_in_masks_of_one_bit_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", FLAT.astype(np.float32), photometric="miniswhite")
    refused(tmp_path / "a.tif", "min-is-white with float32")
    tifffile.imwrite(tmp_path / "a.tif", FLAT.astype(np.int16), photometric="miniswhite")
    refused(tmp_path / "a.tif", "min-is-white with int16")
    tifffile.imwrite(tmp_path / "a.tif", FLAT.astype(np.uint32), photometric="miniswhite")
    refused(tmp_path / "a.tif", "min-is-white with uint32")
    tifffile.imwrite(tmp_path / "a.tif", FLAT > 100, photometric="miniswhite")
    refused(tmp_path / "a.tif", "whether 0 or 1 is the class", read_mask)
    classes = FLAT % 3
    np.testing.assert_array_equal(read(tmp_path, 255 - classes, read_mask, photometric="miniswhite"), classes[None])


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_type_in_every_compression_and_byte_order(tmp_path, compression, byteorder):
    for kind in ("i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"):
        pixels = (FLAT.astype(float) - 5).astype(kind)
        predictors = (False, True) if compression not in {None, "packbits"} else (False,)
        for predictor in predictors:
            found = read(
                tmp_path,
                pixels,
                compression=compression,
                byteorder=byteorder,
                predictor=predictor,
                photometric="minisblack",
            )
            np.testing.assert_array_equal(found, pixels[None])
            assert found.dtype == (np.float32 if kind.startswith("f") else np.dtype(kind))


@pytest.mark.parametrize(("bits", "step"), [(2, 85), (4, 17), (10, 1), (12, 1), (14, 1)])
def test_bits_that_fill_no_byte(tmp_path, bits, step):
    samples = (FLAT.astype(int) % (1 << bits)).astype(np.uint8 if bits < 8 else np.uint16)
    options = {"bitspersample": bits, "photometric": "minisblack"}
    np.testing.assert_array_equal(read(tmp_path, samples, **options), samples[None] * step)
    np.testing.assert_array_equal(read(tmp_path, samples, read_mask, **options), samples[None])
    options["photometric"] = "miniswhite"
    np.testing.assert_array_equal(read(tmp_path, (1 << bits) - 1 - samples, **options), samples[None] * step)


def test_bits_that_have_no_eight_bit_form_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", FLAT % 64, bitspersample=6, photometric="minisblack")
    refused(tmp_path / "a.tif", "6 bits a sample")


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_equal_colours_are_grey_in_either_configuration(tmp_path, kind, planar, compression):
    grey = FLAT.astype(kind) * kind(1 if kind is np.uint8 else 251)
    axis = -1 if planar == "contig" else 0
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    np.testing.assert_array_equal(read(tmp_path, np.stack([grey] * 3, axis), **options), grey[None])
    alpha = np.stack([grey, grey, grey, grey // 3], axis)
    options["extrasamples"] = ["unassalpha"]
    np.testing.assert_array_equal(read(tmp_path, alpha, **options), grey[None])
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey, grey, grey // 2], axis), **options | {"extrasamples": None})
    refused(tmp_path / "a.tif", "in colour")
    found = read_image(tmp_path / "a.tif", colour_to_grey=True).array
    np.testing.assert_allclose(found[0], grey * (0.299 + 0.587) + (grey // 2) * 0.114, atol=1)


def test_further_samples_are_alpha_or_refused(tmp_path):
    pair = np.stack([FLAT, np.full_like(FLAT, 255)], -1)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    np.testing.assert_array_equal(read(tmp_path, pair, extrasamples=["unassalpha"], **options), FLAT[None])
    np.testing.assert_array_equal(read(tmp_path, pair, extrasamples=["assocalpha"], **options), FLAT[None])
    tifffile.imwrite(tmp_path / "a.tif", pair // 2, extrasamples=["assocalpha"], **options)
    refused(tmp_path / "a.tif", "multiplied by its transparency")
    tifffile.imwrite(tmp_path / "a.tif", pair, extrasamples=["unspecified"], **options)
    refused(tmp_path / "a.tif", "2 values a pixel")


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_palette_is_colours_in_pictures_and_classes_in_masks(tmp_path, compression):
    classes = FLAT % 5
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :5] = np.array([[0, 128, 0, 128, 0], [0, 0, 128, 128, 0], [0, 0, 0, 0, 128]]) * 257
    options = {"photometric": "palette", "compression": compression}
    np.testing.assert_array_equal(read(tmp_path, classes, read_mask, colormap=colours, **options), classes[None])
    refused(tmp_path / "a.tif", "in colour")
    greys = np.tile(np.array([200, 10, 30, 20, 99] + [0] * 251, np.uint16) * 257, (3, 1))
    np.testing.assert_array_equal(read(tmp_path, classes, colormap=greys, **options), greys[0, classes][None] // 257)
    refused(tmp_path / "a.tif", "either may be the classes", read_mask)


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_turns_pictures_and_volumes_upright(tmp_path, orientation):
    stored, upright = np.array(STORED[orientation], np.uint8), np.array(STORED[1], np.uint8)
    tag = {"extratags": [(274, "H", 1, orientation, False)], "photometric": "minisblack"}
    np.testing.assert_array_equal(read(tmp_path, stored, **tag), upright[None])
    frame = planar_frame(tmp_path / "a.tif")
    assert (frame.stored, frame.upright, frame.orientation) == (stored.shape[::-1], (3, 2), orientation)
    volume = read(tmp_path, np.stack([stored, stored + 10]), **tag | {"compression": "zlib"})
    np.testing.assert_array_equal(volume, [upright, upright + 10])
    write_mask(tmp_path / "mask.tif", volume, read_image(tmp_path / "a.tif").header)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), volume)


def test_thumbnails_and_transparency_masks_are_no_slices(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(FLAT[::4, ::4], photometric="minisblack", subfiletype=1, metadata=None)
        file.write(FLAT, photometric="minisblack", subifds=1, metadata=None)
        file.write(FLAT[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
        file.write(FLAT > 9, photometric="mask", subfiletype=4, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, FLAT[None])
    assert planar_frame(tmp_path / "a.tif").stored == (24, 20)
    tifffile.imwrite(tmp_path / "b.tif", FLAT, photometric="minisblack", subfiletype=1)
    refused(tmp_path / "b.tif", "thumbnails")


def test_pages_that_are_channels_or_of_several_kinds_are_refused(tmp_path):
    stack = np.stack([FLAT, FLAT // 2, FLAT // 3])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", imagej=True, metadata={"axes": "CYX"})
    refused(tmp_path / "a.tif", "3 channels")
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": "CYX"})
    refused(tmp_path / "a.tif", "3 channels")
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", ome=True, metadata={"axes": "CYX"})
    refused(tmp_path / "a.ome.tif", "3 channels")
    slices = read(tmp_path, stack, imagej=True, photometric="minisblack", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(slices, stack)
    slices = read(tmp_path, stack, ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(slices, stack)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([stack, stack]), photometric="minisblack")
    refused(tmp_path / "a.tif", "axes")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(FLAT, photometric="minisblack", metadata=None)
        file.write(FLAT[:, :9], photometric="minisblack", metadata=None)
    refused(tmp_path / "a.tif", "2 different sizes;")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(FLAT, photometric="minisblack", metadata=None, extratags=[(274, 3, 1, 3, True)])
        file.write(FLAT, photometric="minisblack", metadata=None)
    refused(tmp_path / "a.tif", "2 different orientations;")


def test_photometries_without_a_grey_are_refused_by_name(tmp_path):
    for photometric, words in (("separated", "CMYK"), ("cielab", r"L\*a\*b")):
        pixels = np.dstack([FLAT] * (4 if photometric == "separated" else 3))
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric)
        refused(tmp_path / "a.tif", words)


@pytest.mark.parametrize("following", [(0,), (1, 0), (1, 2, 1), (1, 2, 2)])
def test_a_ring_of_pages_is_refused_at_once(tmp_path, following):
    pages = [Page(4, 4, (8 + 16 * number, 16), after) for number, after in enumerate(following)]
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pages, bytes(range(16 * len(pages)))))
    refused(path, "form a ring")
    refused(path, "form a ring", planar_frame)
    refused(path, "form a ring", read_mask)


def test_chains_of_pages_as_long_as_no_volume_are_refused():
    directory = struct.pack("<H", 0)
    places = [8 + 6 * number for number in range(MOST_PAGES + 1)]
    chain = b"".join(directory + struct.pack("<I", place) for place in [*places[1:], 0])
    with pytest.raises(ImageError, match=f"more than {MOST_PAGES} pages"):
        check_chain(io.BytesIO(b"II*\0" + struct.pack("<I", 8) + chain))
    # Directories of two entries (26 bytes and the next one's place), each begun 8 bytes behind the one before.
    content = bytearray(b"II*\0" + struct.pack("<I", 8) + bytes(1600))
    for place in range(8, 1500, 8):
        content[place : place + 2] = struct.pack("<H", 2)
        content[place + 26 : place + 30] = struct.pack("<I", place + 8)
    with pytest.raises(ImageError, match="directories of its pages lie on the same bytes"):
        check_chain(io.BytesIO(content))
    with pytest.raises(ImageError, match="truncated"):
        check_chain(io.BytesIO(content[:30]))


@pytest.mark.parametrize("compression", [1, 8])
def test_many_pages_on_one_strip_are_refused_before_anything_is_read(tmp_path, compression):
    pixels = bytes(1 << 20) if compression == 1 else zlib.compress(bytes(1 << 20))
    pages = [Page(1024, 1024, (8, len(pixels)), compression=compression)] * 600
    (tmp_path / "a.tif").write_bytes(tiff(pages, pixels))
    refused(tmp_path / "a.tif", "lie on the same bytes")
    one = [Page(1024, 1024, (8, len(pixels)), compression=compression)]
    (tmp_path / "a.tif").write_bytes(tiff(one, pixels))
    assert read_image(tmp_path / "a.tif").array.shape == (1, 1024, 1024)


def test_strips_beyond_the_file_or_never_written_are_truncated(tmp_path):
    for strip in ((8, 0), (0, 0), (10_000, 16), (8, 15)):
        (tmp_path / "a.tif").write_bytes(tiff([Page(4, 4, strip)], bytes(16)))
        refused(tmp_path / "a.tif", "truncated")


def test_values_of_imagej_follow_its_straight_line(tmp_path):
    """So it stores signed images: 0 to 65535 stand for -32768 to 32767."""
    values = np.array([[-1000, 0, 40], [3000, -32768, 32767]])
    stored = (values + 32768).astype(np.uint16)
    line = {"axes": "YX", "cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "HU"}
    options = {"imagej": True, "photometric": "minisblack"}
    np.testing.assert_array_equal(read(tmp_path, stored, metadata=line, **options), values[None])
    np.testing.assert_array_equal(read(tmp_path, stored, read_mask, metadata=line, **options), stored[None])
    half = line | {"c0": 2.5, "c1": 0.5}
    np.testing.assert_array_equal(read(tmp_path, stored, metadata=half, **options), 2.5 + stored[None] / 2)
    curve = line | {"cf": 1}
    np.testing.assert_array_equal(read(tmp_path, stored, metadata=curve, **options), stored[None])


def test_masks_in_colour_are_not_to_be_converted_to_grey(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([FLAT, FLAT // 2, FLAT]), photometric="rgb")
    refused(tmp_path / "a.tif", "a mask in colour.*gives other numbers", read_mask)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("form", [{"imagej": True, "truncate": True}, {"truncate": True}])
def test_pages_that_follow_the_only_one_listed_are_read(tmp_path, form, byteorder):
    stack = np.stack([FLAT, FLAT // 2, FLAT // 3]).astype(np.uint16) * 200
    options = {"photometric": "minisblack", "byteorder": byteorder, "metadata": {"axes": "ZYX"}}
    np.testing.assert_array_equal(read(tmp_path, stack, **form, **options), stack)
    assert len(tifffile.TiffFile(tmp_path / "a.tif").pages) == 1
    with pytest.raises(ImageError, match="holds 3 pictures"):
        planar_frame(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-1000])
    refused(tmp_path / "a.tif", "truncated")


def test_a_page_that_is_its_own_thumbnail_is_read_once(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(FLAT, photometric="minisblack", subifds=1)
        file.write(FLAT[::2, ::2], photometric="minisblack", subfiletype=1)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        own, place = file.pages[0].offset, file.pages[0].tags[330].valueoffset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place : place + 4] = struct.pack("<I", own)
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, FLAT[None])
