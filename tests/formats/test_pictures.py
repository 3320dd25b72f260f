"""PNG, JPEG and BMP made byte by byte, so that what they hold does not depend on the libraries that read them."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.planar import planar_frame
from mdkd_auto.formats.read_write import read_image, read_mask, write_mask

GREY, COLOURS, PALETTE, GREY_ALPHA, COLOURS_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types
SAMPLES = {GREY: 1, COLOURS: 3, PALETTE: 1, GREY_ALPHA: 2, COLOURS_ALPHA: 4}
# First column and row of each pass, and its steps.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
DEEP = (np.arange(9 * 11, dtype=np.uint16).reshape(9, 11) * 659 + 258) % 65521
FLAT = (np.arange(9 * 11).reshape(9, 11) * 7 % 256).astype(np.uint8)
# The picture 0 1 2 / 3 4 5 as each orientation stores it, after EXIF 2.32, table 6.
STORED = {
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[2, 5], [1, 4], [0, 3]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[3, 0], [4, 1], [5, 2]],
}


def exif_block(orientation):
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_rows(rows, bits):
    """(y, samples) -> bytes, each row behind filter 0."""
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    places = np.arange(bits - 1, -1, -1)
    return b"".join(b"\0" + np.packbits((row[:, None].astype(int) >> places) & 1).tobytes() for row in rows)


def png(pixels, bits=8, kind=GREY, before=b"", after=b"", interlaced=False):
    """``pixels`` (y, x) or (y, x, samples); chunks stand before and after the pixels."""
    height, width = pixels.shape[:2]
    parts = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [pixels]
    data = b"".join(png_rows(part.reshape(len(part), -1), bits) for part in parts if part.size)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced))
    body = before + chunk(b"IDAT", zlib.compress(data)) + after
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def palette_chunk(colours):
    return chunk(b"PLTE", bytes(np.array(colours, np.uint8).ravel()))


def of_samples(grey, kind, alpha):
    """The grey picture with so many equal samples a pixel as the colour type has, and one opacity."""
    pixels = np.repeat(grey[..., None], SAMPLES[kind], axis=2)
    if kind in {GREY_ALPHA, COLOURS_ALPHA}:
        pixels[..., -1] = alpha
    return pixels


def jpeg_with_exif(jpeg, orientation):
    body = b"Exif\0\0" + exif_block(orientation)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def bmp(rows, size, bits, palette=(), compression=0, masks=b""):
    """``rows`` as stored; a negative height has the top row first."""
    entries = b"".join(bytes((blue, green, red, 0)) for red, green, blue in palette)
    start = 14 + 40 + len(masks) + len(entries)
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(rows), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + masks + entries + rows


def read(tmp_path, name, content, reader=read_image, **options):
    (tmp_path / name).write_bytes(content)
    image = reader(tmp_path / name, **options)
    assert image.array.flags.c_contiguous
    return image.array[0]


def refused(tmp_path, name, content, words, reader=read_image):
    with pytest.raises(ImageError, match=words):
        read(tmp_path, name, content, reader)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", [GREY, COLOURS, GREY_ALPHA, COLOURS_ALPHA])
def test_sixteen_bits_are_whole_in_every_colour_type(tmp_path, kind, interlaced):
    content = png(of_samples(DEEP, kind, 77), 16, kind, interlaced=interlaced)
    for reader in (read_image, read_mask):
        found = read(tmp_path, "a.png", content, reader)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, DEEP)


def test_sixteen_bit_colours_become_their_luminance_or_are_refused(tmp_path):
    colours = np.stack([DEEP, DEEP // 2, DEEP // 4], -1)
    luminance = np.rint(DEEP * 0.299 + (DEEP // 2) * 0.587 + (DEEP // 4) * 0.114)
    found = read(tmp_path, "a.png", png(colours, 16, COLOURS), colour_to_grey=True)
    np.testing.assert_allclose(found, luminance, atol=1)
    refused(tmp_path, "a.png", png(colours, 16, COLOURS), "in colour")
    for bits in (8, 16):
        refused(tmp_path, "a.png", png(colours % 256, bits, COLOURS), "a mask in colour", read_mask)


@pytest.mark.parametrize("kind", [GREY, COLOURS])
@pytest.mark.parametrize("bits", [8, 16])
def test_chunks_about_looks_change_no_value(tmp_path, kind, bits):
    grey, several = DEEP if bits == 16 else FLAT, SAMPLES[kind]
    about = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"sBIT", bytes([bits - 3] * several))
    about += chunk(b"tRNS", struct.pack(f">{several}H", *[int(grey[0, 1])] * several))
    np.testing.assert_array_equal(read(tmp_path, "a.png", png(of_samples(grey, kind, 0), bits, kind, about)), grey)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17)])
def test_few_bits_are_widened_in_pictures_and_kept_in_masks(tmp_path, bits, step, interlaced):
    samples = (np.arange(9 * 11).reshape(9, 11) % (1 << bits)).astype(np.uint8)
    content = png(samples, bits, interlaced=interlaced)
    np.testing.assert_array_equal(read(tmp_path, "a.png", content), samples * step)
    np.testing.assert_array_equal(read(tmp_path, "a.png", content, read_mask), samples)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_colours_in_pictures_and_classes_in_masks(tmp_path, bits):
    classes = (np.arange(30).reshape(5, 6) % min(1 << bits, 6)).astype(np.uint8)
    greys = [200, 10, 30, 20, 99, 1][: 1 << bits]
    grey = png(classes, bits, PALETTE, palette_chunk([(one, one, one) for one in greys]))
    np.testing.assert_array_equal(read(tmp_path, "a.png", grey), np.array(greys)[classes])
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)][: 1 << bits]
    for more in (b"", chunk(b"tRNS", b"\0")):
        mask = png(classes, bits, PALETTE, palette_chunk(colours) + more)
        np.testing.assert_array_equal(read(tmp_path, "a.png", mask, read_mask), classes)
        refused(tmp_path, "a.png", mask, "in colour")


def test_a_grey_palette_is_a_mask_where_greys_are_the_indices_or_black_and_white(tmp_path):
    indices = np.array([[0, 1, 1], [2, 0, 2]], np.uint8)
    same = png(indices, 8, PALETTE, palette_chunk([(one, one, one) for one in range(3)]))
    np.testing.assert_array_equal(read(tmp_path, "a.png", same, read_mask), indices)
    two = png(indices % 2, 1, PALETTE, palette_chunk([(0, 0, 0), (255, 255, 255)]))
    np.testing.assert_array_equal(read(tmp_path, "a.png", two, read_mask), indices % 2)
    other = png(indices, 8, PALETTE, palette_chunk([(0, 0, 0), (5, 5, 5), (7, 7, 7)]))
    refused(tmp_path, "a.png", other, "indices 0, 1, 2 the greys 0, 5, 7: either", read_mask)
    inverse = png(indices % 2, 1, PALETTE, palette_chunk([(255, 255, 255), (0, 0, 0)]))
    refused(tmp_path, "a.png", inverse, "either may be the classes", read_mask)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_turns_pictures_upright(tmp_path, orientation):
    upright, stored = np.array(STORED[1], np.uint8), np.array(STORED[orientation], np.uint8)
    exif = chunk(b"eXIf", exif_block(orientation))
    for content in (
        png(stored, before=exif),
        png(stored, after=exif),
        png(of_samples(stored.astype(np.uint16), COLOURS, 0), 16, COLOURS, exif),
    ):
        np.testing.assert_array_equal(read(tmp_path, "a.png", content), upright)
        frame = planar_frame(tmp_path / "a.png")
        assert (frame.stored, frame.upright, frame.orientation) == (stored.shape[::-1], (3, 2), orientation)
    large = np.kron(stored * 40, np.ones((16, 16), np.uint8))
    jpeg = io.BytesIO()
    Pillow.fromarray(large).save(jpeg, "JPEG", quality=100)
    found = read(tmp_path, "a.jpg", jpeg_with_exif(jpeg.getvalue(), orientation))
    np.testing.assert_allclose(found, np.kron(upright * 40, np.ones((16, 16))), atol=2)
    frame = planar_frame(tmp_path / "a.jpg")
    assert (frame.stored, frame.upright, frame.orientation) == (large.shape[::-1], (48, 32), orientation)


@pytest.mark.parametrize("block", [exif_block(0), exif_block(9), b"", b"MM\0*\0\0\0\x08\xff\xff", b"nothing"])
def test_an_exif_block_without_an_orientation_turns_nothing(tmp_path, block):
    np.testing.assert_array_equal(read(tmp_path, "a.png", png(FLAT, before=chunk(b"eXIf", block))), FLAT)


def test_the_mask_of_a_turned_picture_is_written_upright(tmp_path):
    stored = np.array(STORED[6], np.uint8)
    (tmp_path / "a.png").write_bytes(png(stored, before=chunk(b"eXIf", exif_block(6))))
    image = read_image(tmp_path / "a.png")
    assert (image.header.exif, image.header.shape) == (6, (1, 2, 3))
    write_mask(tmp_path / "mask.png", image.array, image.header)
    written = np.asarray(Pillow.open(tmp_path / "mask.png"))
    np.testing.assert_array_equal(written, STORED[1])
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png").array[0], STORED[1])


def test_jpeg_of_twelve_bits_in_printing_colours_and_with_a_second_picture(tmp_path):
    smooth = (np.add.outer(np.arange(40), np.arange(48)) * 40).astype(np.uint16)
    twelve = imagecodecs.jpeg8_encode(smooth, level=100, bitspersample=12)
    found = read(tmp_path, "a.jpg", jpeg_with_exif(twelve, 3))
    assert found.dtype == np.uint16
    np.testing.assert_allclose(found, smooth[::-1, ::-1], atol=3)
    refused(tmp_path, "a.jpg", twelve[:-40], "truncated")
    inks = io.BytesIO()
    Pillow.fromarray(np.dstack([FLAT] * 4), "CMYK").save(inks, "JPEG")
    refused(tmp_path, "a.jpg", inks.getvalue(), "CMYK")
    two = io.BytesIO()
    Pillow.fromarray(FLAT).save(two, "MPO", save_all=True, append_images=[Pillow.fromarray(255 - FLAT)], quality=100)
    np.testing.assert_allclose(read(tmp_path, "a.jpg", two.getvalue()), FLAT, atol=60)
    assert planar_frame(tmp_path / "a.jpg").stored == (11, 9)


def test_bmp_of_every_kind_is_one_picture(tmp_path):
    levels = np.array([[0, 5, 10, 15], [15, 3, 2, 1]])
    half_bytes = [bytes((0x05, 0xAF, 0, 0)), bytes((0xF3, 0x21, 0, 0))]
    whole_bytes = [bytes(row) for row in (levels * 17).tolist()]
    greys = [(one * 17,) * 3 for one in range(16)]
    every = [(one,) * 3 for one in range(256)]
    pairs = [b"".join(bytes([one * 17] * 3) for one in row) for row in levels.tolist()]
    bottom = bytes([1, 255, 1, 51, 1, 34, 1, 17, 0, 0])  # run-length encoded: pairs of count and value
    top = bytes([0, 4, 0, 85, 170, 255, 0, 1])  # four values as they are, and the end
    for content in (
        bmp(half_bytes[1] + half_bytes[0], (4, 2), 4, greys),
        bmp(half_bytes[0] + half_bytes[1], (4, -2), 4, greys),
        bmp(whole_bytes[1] + whole_bytes[0], (4, 2), 8, every),
        bmp(whole_bytes[0] + whole_bytes[1], (4, -2), 8, every),
        bmp(pairs[1] + pairs[0], (4, 2), 24),
        bmp(bottom + top, (4, 2), 8, every, compression=1),
    ):
        np.testing.assert_array_equal(read(tmp_path, "a.bmp", content), levels * 17)
        assert planar_frame(tmp_path / "a.bmp").upright == (4, 2)
    five_bits = struct.pack("<4H", *(int(one) * 0x421 for one in (0, 8, 16, 31)))
    found = read(tmp_path, "a.bmp", bmp(five_bits, (4, 1), 16)).astype(int)
    np.testing.assert_allclose(found, [[0, 8 * 255 / 31, 16 * 255 / 31, 255]], atol=1)


def test_bmp_masks_are_indices(tmp_path):
    half_bytes = bytes((0x01, 0x23, 0, 0)) + bytes((0x32, 0x10, 0, 0))
    for palette in ([(one * 16, 0, 9) for one in range(16)], [(one,) * 3 for one in range(16)]):
        content = bmp(half_bytes, (4, -2), 4, palette)
        np.testing.assert_array_equal(read(tmp_path, "a.bmp", content, read_mask), [[0, 1, 2, 3], [3, 2, 1, 0]])
    one_bit = bmp(bytes((0b01010000, 0, 0, 0)), (4, 1), 1, [(0, 0, 0), (255, 255, 255)])
    np.testing.assert_array_equal(read(tmp_path, "a.bmp", one_bit, read_mask), [[0, 1, 0, 1]])
    np.testing.assert_array_equal(read(tmp_path, "a.bmp", one_bit), [[0, 255, 0, 255]])


def test_what_a_file_holds_decides_not_its_ending(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, "a.jpg", png(DEEP, 16)), DEEP)
    row = bmp(bytes(FLAT[0, :8]), (8, 1), 8, [(one,) * 3 for one in range(256)])
    np.testing.assert_array_equal(read(tmp_path, "b.PNG", row), FLAT[:1, :8])
    animated = png(FLAT, before=chunk(b"acTL", struct.pack(">II", 2, 0)))
    refused(tmp_path, "a.png", animated, "several pictures")
    with pytest.raises(ImageError, match="holds 2 pictures"):
        planar_frame(tmp_path / "a.png")


def test_what_a_file_holds_decides_how_it_is_read(tmp_path):
    (tmp_path / "a.tif").write_bytes(png(DEEP, 16, before=chunk(b"eXIf", exif_block(6))))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], DEEP[::-1].T)
    assert planar_frame(tmp_path / "a.tif").upright == (9, 11)


@pytest.mark.filterwarnings("error")
def test_transparency_of_some_colours_is_no_warning_and_changes_nothing(tmp_path):
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3) % 3
    colours = palette_chunk([[0, 0, 0], [90, 90, 90], [255, 0, 0]])
    (tmp_path / "a.png").write_bytes(png(indices, 8, PALETTE, before=colours + chunk(b"tRNS", bytes([255, 128, 0]))))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").array[0], indices)
    shades = read_image(tmp_path / "a.png", colour_to_grey=True).array[0]
    np.testing.assert_array_equal(shades, [[0, 90, 76]] * 2)  # 0.299 x 255 = 76.2


def test_a_colour_beyond_the_palette_is_damage(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.full((2, 2), 9, np.uint8), 8, PALETTE, before=palette_chunk([[1, 2, 3]])))
    with pytest.raises(ImageError, match="names colour 9 of a palette of 1"):
        read_image(tmp_path / "a.png", colour_to_grey=True)
