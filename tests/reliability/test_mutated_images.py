"""Damaged image files: read soundly, or refused with an ImageError that names the file; never anything else."""

import gzip
import json
import random
import signal
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from isal import igzip
from PIL import Image as Pillow

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats import nifti
from mdkd_auto.formats.read_write import image_ending, output_ending, read_image, write_mask

resource = pytest.importorskip("resource")  # not on Windows

MEMORY_BYTES = 1 << 30  # that reading may take beyond what the process has
FILE_SECONDS = 20  # a file that takes longer hangs
BATCH = 250

INTEGERS = (0, 1, 2, 3, 7, 8, 15, 127, 128, 255, 348, 352, 540, 1024, 32767, 65535, 2**31 - 1, 2**62, -1, -2, -32768)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e38, -1e38, 352.0, 353.0, 1e9, float("nan"), float("inf"), -float("inf"))
FIELDS = (
    "sizeof_hdr",
    "dim",
    "datatype",
    "bitpix",
    "pixdim",
    "vox_offset",
    "scl_slope",
    "scl_inter",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "magic",
    "intent_code",
    "slice_end",
    "cal_max",
)
WORDS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"4",
    b"9",
    b"32767",
    b"999999999",
    b"99999999999999999999",
    b"nan",
    b"inf",
    b"1e300",
    b"1e-300",
    b"",
    b"x",
    b"1 1",
    b"(1,0)",
    b"%",
    b"True",
    b"MET_DOUBLE",
    b"MET_STRING",
    b"gzip",
    b"ascii",
    b"short",
    b"block",
    b"LOCAL",
    b"LIST",
    b"a" * 2000,
)


class Mutation(NamedTuple):
    """A damaged file, what was done to it, and what must be said of it."""

    name: str
    content: bytes
    kind: str
    words: tuple[str, ...] = ()  # it must be refused with one of these; (): it may also be read
    same_as: str = ""  # where it is read, its voxels are those of this file


# --- sound files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of each kind, by name."""
    folder, rng = tmp_path_factory.mktemp("sound"), np.random.default_rng(0)
    affine = np.array([[0, -0.7, 0, 9], [0.5, 0, 0.1, -4], [0, 0.1, 2, 30], [0, 0, 0, 1.0]])
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        for dtype in (np.int16, np.uint8, np.float32):
            for shape in ((9, 8, 7), (12, 11)):
                voxels = rng.integers(0, 200, shape).astype(dtype)
                image = kind(voxels, affine)
                image.set_qform(affine, code=1, strip_shears=True)
                if dtype is np.int16:
                    image.header.set_slope_inter(0.5, -3)
                name = f"{kind.__name__[:6]}_{voxels.dtype}_{len(shape)}d"
                nib.save(image, folder / f"{name}.nii")
                plain = (folder / f"{name}.nii").read_bytes()
                (folder / f"{name}.nii.gz").write_bytes(gzip.compress(plain, 6, mtime=0))
    volume = sitk.GetImageFromArray(rng.integers(-500, 500, (5, 6, 7)).astype(np.int16))
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(volume, str(folder / name), True)
        sitk.WriteImage(volume, str(folder / f"raw{name[1:]}"), False)
    for name in ("a.png", "a.bmp", "a.tif"):
        Pillow.fromarray(rng.integers(0, 255, (20, 30)).astype(np.uint8)).save(folder / name)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- damage ---------------------------------------------------------------------------------------------------------


def truncated(name: str, whole: bytes, rng: random.Random) -> Mutation:
    kept = rng.randrange(len(whole))
    return Mutation(name, whole[:kept], "truncated", ("truncated",))


def flipped(name: str, whole: bytes, rng: random.Random) -> Mutation:
    """One to three bits, anywhere."""
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 3))):
        bit = rng.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
    if not name.endswith(".gz"):
        return Mutation(name, bytes(content), "flipped bits")
    if content[:2] != whole[:2]:
        return Mutation(name, bytes(content), "flipped bits", ("NIfTI",))
    try:
        gzip.decompress(content)  # zlib's opinion
    except (OSError, EOFError, zlib.error, struct.error):
        return Mutation(name, bytes(content), "flipped bits", ("truncated", "checksum"))
    return Mutation(name, bytes(content), "flipped bits", same_as=name)


def changed_field(name: str, whole: bytes, rng: random.Random) -> Mutation:
    """One field of the header, or one number of it."""
    content = bytearray(gzip.decompress(whole) if name.endswith(".gz") else whole)
    kind = nib.Nifti1Header if content[:4] == struct.pack("<i", 348) else nib.Nifti2Header
    field = rng.choice(FIELDS)
    dtype, offset = kind.template_dtype.fields[field][:2]
    base, length = (dtype.subdtype[0], dtype.shape[0]) if dtype.subdtype else (dtype, 1)
    if base.kind == "S":
        value = rng.choice((b"ni1", b"n+1", b"n+2", b"", rng.randbytes(base.itemsize)))[: base.itemsize]
        stored = value.ljust(base.itemsize, b"\0")
    elif rng.random() < 0.3:
        stored = rng.randbytes(base.itemsize)
    elif base.kind == "f":
        stored = np.array(rng.choice(FLOATS), base).tobytes()
    else:
        limits = np.iinfo(base)
        stored = np.array(min(max(rng.choice(INTEGERS), limits.min), limits.max), base).tobytes()
    for position in range(length) if rng.random() < 0.2 else (rng.randrange(length),):
        start = offset + position * base.itemsize
        content[start : start + base.itemsize] = stored
    return Mutation(name, gzip.compress(content, 1) if name.endswith(".gz") else bytes(content), f"field {field}")


def noise(name: str, whole: bytes, rng: random.Random) -> Mutation:
    """Random bytes, alone or after a part of a sound file, in a sound gzip stream where there is one."""
    zipped = name.endswith(".gz") and rng.random() < 0.7
    start = gzip.decompress(whole) if zipped else whole
    content = start[: rng.choice((0, 0, 4, 100, 350, 400))] + rng.randbytes(rng.randrange(3000))
    return Mutation(name, gzip.compress(content, 1) if zipped else content, "random bytes")


def nifti_mutations(sound: dict[str, bytes], count: int) -> Iterator[Mutation]:
    rng = random.Random(5)
    names = [name for name in sound if ".nii" in name]
    for _ in range(count):
        name = rng.choice(names)
        damage = rng.choices((truncated, flipped, changed_field, noise), (3, 3, 5, 1))[0]
        yield damage(name, sound[name], rng)


def other_mutations(sound: dict[str, bytes], count: int) -> Iterator[Mutation]:
    rng = random.Random(6)
    names = [name for name in sound if ".nii" not in name]
    for _ in range(count):
        name = rng.choice(names)
        mutation = rng.choices((truncated, flipped, header_line, noise), (3, 3, 3, 1))[0](name, sound[name], rng)
        yield mutation._replace(words=())  # a trailer may be lost without harm


def header_line(name: str, whole: bytes, rng: random.Random) -> Mutation:
    """A line of a text header changed, lost or doubled; in other files a random byte among the first hundred."""
    if not name.endswith((".mha", ".nrrd")):
        place = rng.randrange(min(100, len(whole)))
        return Mutation(name, whole[:place] + rng.randbytes(1) + whole[place + 1 :], "field")
    end = whole.index(b"\n\n") if name.endswith(".nrrd") else whole.index(b"ElementDataFile") - 1
    lines = whole[:end].split(b"\n")
    number = rng.randrange(len(lines))
    key, mark, value = lines[number].partition(b"=" if name.endswith(".mha") else b":")
    words = value.split() or [b""]
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    changed = key + mark + b" " + b" ".join(words)
    lines[number : number + 1] = rng.choice(([changed], [changed], [changed], [], [lines[number], changed]))
    return Mutation(name, b"\n".join(lines) + whole[end:], "field")


# --- reading them ---------------------------------------------------------------------------------------------------


SOUND: dict[str, bytes] = {}  # what ``sound`` holds


def outcome_of(path: Path, mutation: Mutation) -> str:
    """How reading went; raises AssertionError where it went as it must not."""
    path.write_bytes(mutation.content)
    try:
        image = read_image(path)
    except ImageError as error:
        said = str(error)
        assert said.startswith(f"{path}: "), said
        assert not mutation.words or any(word in said for word in mutation.words), said
        return {"truncated": "refused as truncated", "checksum": "refused for its checksum"}.get(error.kind, "refused")
    assert not mutation.words, f"read, though it must be refused as {mutation.words}"
    assert image.array.ndim == 3
    assert image.array.size > 0
    assert image.array.dtype.kind in "iuf"
    assert np.isfinite(image.spacing_mm).all()
    assert image.affine is None or np.isfinite(image.affine).all()
    if mutation.same_as:
        original = path.with_name(f"sound_{mutation.same_as}")
        original.write_bytes(SOUND[mutation.same_as])
        np.testing.assert_array_equal(image.array, read_image(original).array)
    mask_path = path.with_name("mask" + output_ending(image_ending(path)))
    write_mask(mask_path, np.zeros(image.array.shape, np.uint8), image.header)
    assert read_image(mask_path).array.shape == image.array.shape
    return "read"


def limit_memory(extra_bytes: int) -> None:
    """Let this process take so much more than it has; beyond, it gets a MemoryError."""
    if Path("/proc/self/statm").is_file():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra_bytes,) * 2)


def try_all(mutations: list[Mutation], folder: Path, fork: Callable[..., Any]) -> Counter[tuple[str, str]]:
    """Read them in children that may neither hang nor take much memory; counts (damage, outcome)."""
    report = folder / "report.jsonl"
    for start in range(0, len(mutations), BATCH):
        part = mutations[start : start + BATCH]

        def read(part: list[Mutation] = part, start: int = start) -> None:
            limit_memory(MEMORY_BYTES)
            with open(report, "a", encoding="utf-8") as file:
                for number, mutation in enumerate(part, start):
                    signal.alarm(FILE_SECONDS)
                    try:
                        outcome = outcome_of(folder / f"damaged_{mutation.name}", mutation)
                    except BaseException as error:
                        outcome = f"WRONG {type(error).__name__}: {str(error)[:300]}"
                    print(json.dumps([number, outcome]), file=file, flush=True)

        status = fork(read).wait()
        done = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        if status != 0:
            last = mutations[len(done)]
            (folder / f"guilty_{last.name}").write_bytes(last.content)
            raise AssertionError(f"status {status} at {last.kind} of {last.name}, kept in {folder}")
    outcomes = [outcome for _, outcome in done]
    wrong = [
        f"{number} {mutations[number].kind} of {mutations[number].name}: {outcome}"
        for number, outcome in enumerate(outcomes)
        if outcome.startswith("WRONG")
    ]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}:\n" + "\n".join(wrong[:30])
    return Counter((mutation.kind.split()[0], outcome) for mutation, outcome in zip(mutations, outcomes, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_damaged_nifti_is_read_soundly_or_refused_by_name(
    count: int, sound: dict[str, bytes], tmp_path: Path, fork: Callable[..., Any]
) -> None:
    SOUND.update(sound)
    counts = try_all(list(nifti_mutations(sound, count)), tmp_path, fork)
    print(f"{count} damaged NIfTI files:", dict(sorted(counts.items())))
    assert ("truncated", "read") not in counts
    assert {kind for kind, _ in counts} == {"truncated", "flipped", "field", "random"}
    assert counts["field", "read"] > count / 20  # a check that refuses everything proves nothing
    assert counts["flipped", "refused for its checksum"] > count / 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_other_damaged_images_are_read_or_refused_by_name(
    count: int, sound: dict[str, bytes], tmp_path: Path, fork: Callable[..., Any]
) -> None:
    SOUND.update(sound)
    counts = try_all(list(other_mutations(sound, count)), tmp_path, fork)
    print(f"{count} damaged MHA, NRRD, PNG, BMP and TIFF files:", dict(sorted(counts.items())))


# --- promises and bombs ---------------------------------------------------------------------------------------------


def header_of(shape: tuple[int, ...], kind: Any = nib.Nifti1Header) -> bytes:
    """A sound header and the four bytes after it. ``shape`` may be absurd."""
    header = kind()
    header.set_data_dtype(np.int16)
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header.set_sform(np.eye(4), code=1)
    return bytes(header.binaryblock) + bytes(4)


def message(path: Path, content: bytes, fork: Callable[..., Any], extra_bytes: int = 64 << 20) -> str:
    """What read_image says in a process that may take little memory; "" where it reads the file."""
    path.write_bytes(content)
    said = path.with_suffix(".said")

    def read() -> None:
        limit_memory(extra_bytes)
        signal.alarm(FILE_SECONDS)
        try:
            read_image(path)
            said.write_text("")
        except ImageError as error:
            said.write_text(str(error))

    assert fork(read).wait() == 0
    return said.read_text()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nib.Nifti1Header, (32767,) * 3), (nib.Nifti1Header, (2000,) * 3), (nib.Nifti2Header, (2**40, 2**20, 1))],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_may_promise_no_more_than_its_file_can_hold(
    kind: Any, shape: tuple[int, ...], ending: str, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    content = header_of(shape, kind) + bytes(5000)
    path = tmp_path / f"a{ending}"
    said = message(path, gzip.compress(content) if ending == ".nii.gz" else content, fork)
    assert said.startswith(f"{path}: it is truncated")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_a_stream_much_longer_than_its_header_promises_is_not_unpacked(
    name: str, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    content = bytes(200 << 20)  # more than the reader may take
    if name == "a.nii.gz":
        damaged = igzip.compress(header_of((5, 4, 3)) + content, 1)
    elif name == "a.mha":
        lines = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nDimSize = 5 4 3\n"
        damaged = lines + b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n" + zlib.compress(content, 1)
    else:
        lines = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: gzip\n\n"
        damaged = lines + igzip.compress(content, 1)
    assert "the header is wrong" in message(tmp_path / name, damaged, fork)


def test_a_stream_without_end_is_left_where_it_is(
    tmp_path: Path, fork: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is looked at for its checksum, but not for ever."""
    monkeypatch.setattr(nifti, "MOST_READ_ON", 10 << 20)
    stream = igzip.compress(header_of((5, 4, 3)) + bytes(20 << 20), 1)
    for content in (stream, stream[:-2000], stream[:-8] + bytes(8)):
        assert "10485760 or more" in message(tmp_path / "a.nii.gz", content, fork)


def test_an_image_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header_of((50, 40, 30)) + bytes(120_000)))
    assert read_image(path).array.shape == (30, 40, 50)

    class Memory:
        total = 200_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(ImageError, match="more than this machine has"):
        read_image(path)


@pytest.mark.parametrize(("field", "value"), [("sform_code", 77), ("qform_code", -1)])
def test_a_place_that_the_header_cannot_mean_is_not_mended_silently(field: str, value: int, tmp_path: Path) -> None:
    header = nib.Nifti1Header(header_of((5, 4, 3))[:348])
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(200))
    assert read_image(path).array.shape == (3, 4, 5)
    header[field] = value
    path.write_bytes(header.binaryblock + bytes(200))
    with pytest.raises(ImageError, match=rf"a\.nii: the {field} of its header is {value}"):
        read_image(path)


def test_what_harmless_programs_write_is_read(tmp_path: Path) -> None:
    """A few bytes after the voxels, zeros after the gzip stream, a stream of several parts."""
    voxels = np.arange(60, dtype=np.int16)
    whole = header_of((5, 4, 3)) + voxels.tobytes()
    path = tmp_path / "a.nii.gz"
    for content in (
        whole + bytes(500),
        gzip.compress(whole + bytes(500)),
        gzip.compress(whole) + bytes(512),
        gzip.compress(whole[:400]) + gzip.compress(whole[400:]),
    ):
        path.write_bytes(content)
        np.testing.assert_array_equal(read_image(path).array.ravel(), voxels)
