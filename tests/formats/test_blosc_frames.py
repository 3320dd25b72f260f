"""A .b2nd file that blosc2 would evaluate when it opens it is refused before."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.formats.blosc_frames import check_frame
from mdkd_auto.preprocessing.case_store import image_path, label_path, open_image, open_label

SHAPE = (1, 4, 4, 4)
STORAGE: dict[str, Any] = {"chunks": SHAPE, "blocks": SHAPE, "contiguous": True, "mode": "w"}
ZSTD = {"codec": blosc2.Codec.ZSTD}


def stored(path: Path, dtype: type = np.float32, **more: Any) -> blosc2.NDArray:
    return blosc2.asarray(np.zeros(SHAPE, dtype), urlpath=str(path), **{**STORAGE, "cparams": ZSTD, **more})


def function_that_writes(path: Path, marker: Path) -> None:
    """A lazy array of a Python function, in the form that blosc2 before 4.14.1 compiles and runs on opening it."""
    source = f"def f(inputs, output, offset):\n    pass\nopen({str(marker)!r}, 'w').close()\n"
    array = stored(path, meta={"LazyArray": 1})
    array.schunk.vlmeta["_LazyArray"] = {"UDF": source, "operands": {}, "name": "f"}


def expression(path: Path, marker: Path) -> None:
    array = stored(path, meta={"LazyArray": 0})
    array.schunk.vlmeta["_LazyArray"] = {"expression": f"open({str(marker)!r}, 'w')", "operands": {}}


def proxy(path: Path, marker: Path) -> None:
    stored(path, meta={"proxy-source": {"local_abspath": str(marker), "urlpath": None, "caterva2_env": False}})


def recipe(path: Path, marker: Path) -> None:
    stored(path, meta={"b2o": {"kind": "c2array", "version": 1}})


def later_metadata(path: Path, marker: Path) -> None:
    array = stored(path)
    array.schunk.vlmeta["anything"] = {"UDF": str(marker)}


def other_codec(path: Path, marker: Path) -> None:
    stored(path, cparams={"codec": blosc2.Codec.LZ4})


def other_type(path: Path, marker: Path) -> None:
    stored(path, dtype=np.complex64)


def no_array(path: Path, marker: Path) -> None:
    blosc2.SChunk(data=bytes(64), urlpath=str(path), contiguous=True, mode="w", cparams=ZSTD)


def other_file(path: Path, marker: Path) -> None:
    path.write_bytes(b"\x9e\xa8b2frame\x00" + bytes(range(256)))


def empty_file(path: Path, marker: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    "craft",
    [
        function_that_writes,
        expression,
        proxy,
        recipe,
        later_metadata,
        other_codec,
        other_type,
        no_array,
        other_file,
        empty_file,
    ],
)
@pytest.mark.parametrize(("path_of", "opener"), [(image_path, open_image), (label_path, open_label)])
def test_what_is_no_plain_array_is_refused_and_never_run(
    craft: Callable[[Path, Path], None],
    path_of: Callable[[Path, str], Path],
    opener: Callable[[Path, str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = tmp_path / "ran"
    craft(path_of(tmp_path, "case"), marker)
    monkeypatch.setattr(blosc2, "open", lambda **_: pytest.fail("blosc2 was asked to open the file"))
    with pytest.raises(MdkdError, match=r"\.b2nd: damaged, or not written by this program .*; delete it and run"):
        opener(tmp_path, "case")
    assert not marker.exists()


def test_a_file_that_the_system_refuses_to_open_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(image_path(tmp_path, "case"))

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MdkdError) as caught:
        open_image(tmp_path, "case")
    monkeypatch.undo()
    assert "Too many open files" in str(caught.value)
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int16])
def test_a_plain_array_is_taken(dtype: type, tmp_path: Path) -> None:
    stored(image_path(tmp_path, "case"), dtype)
    check_frame(image_path(tmp_path, "case"))
    assert open_image(tmp_path, "case")[:].dtype == dtype
