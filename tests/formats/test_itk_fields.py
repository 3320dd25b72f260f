"""Fields of MetaImage, NRRD and NIfTI headers that are missing or mean nothing are named, and no number is guessed."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.read_write import read_image

VOXELS = np.arange(1, 61, dtype="<i2").reshape(3, 4, 5)  # z, y, x
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "0.5 0.5 2",
    "DimSize": "5 4 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "right-anterior-superior",
    "sizes": "5 4 3",
    "space directions": "(0.5,0,0) (0,0.5,0) (0,0,2)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(0,0,0)",
}


def write_meta(path: Path, fields: dict[str, str], voxels: bytes = VOXELS.tobytes()) -> Path:
    head = "".join(f"{name} = {value}\n" for name, value in fields.items())
    path.write_bytes(head.encode() + voxels)
    return path


def write_nrrd(path: Path, fields: dict[str, str], voxels: bytes = VOXELS.tobytes()) -> Path:
    head = "\n".join(["NRRD0004", *(f"{name}: {value}" for name, value in fields.items())])
    path.write_bytes(head.encode() + b"\n\n" + voxels)
    return path


def without(fields: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name not in names}


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ")
    assert error.value.kind == "header-contradicts"
    return str(error.value)


def test_sound_headers_are_read(tmp_path: Path) -> None:
    paths = [
        write_meta(tmp_path / "a.mha", META),
        write_nrrd(tmp_path / "a.nrrd", NRRD),
        write_meta(tmp_path / "b.mha", {**META, "DimSize": "5.0 4.0 3.0", "BinaryData": "1"}),
        write_nrrd(tmp_path / "b.nrrd", {**NRRD, "type": "signed short int", "encoding": "RAW"}),
        write_nrrd(tmp_path / "c.nrrd", without(NRRD, "kinds")),
    ]
    for path in paths:
        image = read_image(path)
        np.testing.assert_array_equal(image.array, VOXELS)
        assert image.spacing_mm == (2.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("NDims", "5", "the number of dimensions, 2, 3, 4"),
        ("NDims", "2", "2 whole numbers above 0, one for each dimension (NDims 2)"),
        *(
            ("DimSize", value, "3 whole numbers above 0, one for each dimension (NDims 3)")
            for value in ("5 4", "5 4 3 1", "5 4 x", "5 4 0", "5 -4 3", "5 4 2.5", "")
        ),
        *(
            ("ElementSpacing", value, "3 numbers above 0, one for each dimension (NDims 3)")
            for value in ("0.5 0.5", "0.5 0.5 2 1", "a b c", "0.5,0.5,2", "0 1 1", "-1 1 1", "nan 1 1", "inf 1 1", "")
        ),
        ("ElementSize", "1 1", "3 numbers above 0"),
        ("Offset", "0 0", "3 numbers, one for each dimension"),
        ("Offset", "x y z", "3 numbers, one for each dimension"),
        ("CenterOfRotation", "0 0", "3 numbers, one for each dimension"),
        ("TransformMatrix", "1 0 0 1", "9 numbers, 3 for each dimension"),
        ("TransformMatrix", "1 0 0 1 0 0 0 0 1", "axes that point in different directions"),
        ("ElementType", "MET_FOO", "one of MET_CHAR"),
        ("ElementType", "SHORT", "expected MET_SHORT"),
        ("ElementType", "", "one of MET_CHAR"),
        ("BinaryData", "maybe", "True or False"),
        ("CompressedData", "no", "True or False"),
        ("BinaryDataByteOrderMSB", "little", "True or False"),
        ("ElementNumberOfChannels", "x", "a whole number from 1 on"),
        ("ElementNumberOfChannels", "0", "a whole number from 1 on"),
        ("HeaderSize", "x", "a whole number from -1 on"),
        ("ElementDataFile", "", "LOCAL, or the name of the voxels' file"),
    ],
)
def test_metaimage(field: str, value: str, expected: str, tmp_path: Path) -> None:
    fields = {field: value, **META} | {field: value}  # ElementDataFile stays the last
    if field == "ElementDataFile":
        fields = {**META, field: value}
    said = refused(write_meta(tmp_path / "a.mha", fields))
    assert f"its header says {field if 'NDims 2' not in expected else 'DimSize'} " in said
    assert expected in said
    assert said.endswith("correct its header, or export it anew")


@pytest.mark.parametrize("field", ["NDims", "DimSize", "ElementType"])
def test_metaimage_without_a_field(field: str, tmp_path: Path) -> None:
    assert f"its header has no {field}: expected " in refused(write_meta(tmp_path / "a.mha", without(META, field)))


def test_metaimage_without_its_last_line(tmp_path: Path) -> None:
    path = write_meta(tmp_path / "a.mha", without(META, "ElementDataFile"))
    with pytest.raises(ImageError, match=r"breaks off: it has no line ElementDataFile, the last one; copy or export"):
        read_image(path)


def test_metaimage_of_text_that_is_none(tmp_path: Path) -> None:
    path = write_meta(tmp_path / "a.mha", {"BinaryData": "False", **without(META, "BinaryData")})
    with pytest.raises(ImageError, match="its voxels are not as its header describes them"):
        read_image(path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        *(("dimension", value, "a whole number from 1 to 16") for value in ("x", "", "0", "17", "-3", "2.5")),
        *(
            ("sizes", value, "3 whole numbers above 0, one for each axis (dimension 3)")
            for value in ("5 4", "5 4 3 1", "5 4 x", "5 4 0", "5 -4 3")
        ),
        *(
            ("space directions", value, "3 vectors (x, y, z) or none, one for each axis (dimension 3)")
            for value in (
                "(0.5,0,0) (0,0.5,0)",
                "(1,0,0) (0,1,0) (0,0,1) (1,1,1)",
                "(a,0,0) (0,1,0) (0,0,1)",
                "",
                "(1,0) (0,1) (0,0)",
                "(1,0,0) (0,1,0) (0,0,0)",
                "(1,0,0) (0,1,0) (0,0,nan)",
                "none (0,1,0) (0,0,1)",
                "1 0 0",
            )
        ),
        ("type", "foo", "one of char"),
        ("type", "block", "one of char"),
        ("encoding", "zip", "one of raw"),
        ("endian", "middle", "little or big"),
        ("space", "foo", "a space such as left-posterior-superior"),
        ("space origin", "(0,0)", "one vector (x, y, z) of finite numbers"),
        ("space origin", "(x,0,0)", "one vector (x, y, z) of finite numbers"),
        ("kinds", "domain", "3 words, one for each axis"),
    ],
)
def test_nrrd(field: str, value: str, expected: str, tmp_path: Path) -> None:
    said = refused(write_nrrd(tmp_path / "a.nrrd", {**NRRD, field: value}))
    assert f"its header says {field} {value!r}: expected " in said
    assert expected in said


@pytest.mark.parametrize("value", ["0.5 0.5", "1 1 1 1", "a b c", "0 1 1", "-1 1 1", ""])
def test_nrrd_spacings(value: str, tmp_path: Path) -> None:
    fields = without(NRRD, "space", "space directions", "space origin") | {"spacings": value}
    assert "3 numbers above 0 or NaN, one for each axis (dimension 3)" in refused(
        write_nrrd(tmp_path / "a.nrrd", fields)
    )


@pytest.mark.parametrize("field", ["type", "dimension", "sizes", "space", "endian", "encoding"])
def test_nrrd_without_a_field(field: str, tmp_path: Path) -> None:
    assert f"its header has no {field}: expected " in refused(write_nrrd(tmp_path / "a.nrrd", without(NRRD, field)))


# --- sizes that leave voxels over -----------------------------------------------------------------------------------


def write_nifti(path: Path, dim: list[int], big: bool = False, after: bytes = b"") -> Path:
    voxels = VOXELS.transpose(2, 1, 0)
    header = nib.Nifti1Image(voxels, np.diag([0.5, 0.5, 2, 1])).header
    header = header.as_byteswapped(">") if big else header
    header["dim"], header["magic"], header["vox_offset"] = dim, b"n+1", 352
    stored = voxels.astype(">i2" if big else "<i2").tobytes(order="F")
    content = header.binaryblock + bytes(4) + stored + after
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_sizes_that_leave_a_slice_over_are_wrong(tmp_path: Path) -> None:
    """Two of three slices are no image; one slice of zeros after the voxels is padding."""
    shorter = [
        write_meta(tmp_path / "a.mha", {**META, "DimSize": "5 4 2"}),
        write_nrrd(tmp_path / "a.nrrd", {**NRRD, "sizes": "5 4 2"}),
        write_nifti(tmp_path / "a.nii", [3, 5, 4, 2, 1, 1, 1, 1]),
        write_nifti(tmp_path / "b.nii.gz", [3, 5, 4, 2, 1, 1, 1, 1]),
        write_nifti(tmp_path / "c.nii", [2, 5, 4, 3, 1, 1, 1, 1]),
    ]
    for path in shorter:
        with pytest.raises(ImageError, match="the header is wrong, in its sizes or type"):
            read_image(path)
    dim = [3, 5, 4, 3, 1, 1, 1, 1]
    for path in (
        write_meta(tmp_path / "d.mha", META, VOXELS.tobytes() + bytes(100)),
        write_nrrd(tmp_path / "d.nrrd", NRRD, VOXELS.tobytes() + b"\n"),
        write_nifti(tmp_path / "d.nii", dim, after=bytes(100)),
        write_nifti(tmp_path / "e.nii", dim, big=True),
        write_nifti(tmp_path / "d.nii.gz", dim, after=b"end"),
    ):
        np.testing.assert_array_equal(read_image(path).array, VOXELS)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("axes", [0, 8, -3])
def test_nifti_of_no_or_too_many_axes(axes: int, big: bool, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", [axes, 5, 4, 3, 1, 1, 1, 1], big)
    with pytest.raises(ImageError, match=rf"its header says that it has {axes} axes \(dim\[0\]\); expected 2 or 3"):
        read_image(path)
