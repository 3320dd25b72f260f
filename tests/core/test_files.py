"""Files whole or not at all; records as JSON there and back; hashes."""

import errno
import json
import os
from pathlib import Path

import pytest

from mdkd_auto.core.errors import MdkdError, PlanError
from mdkd_auto.core.files import (
    ReadError,
    content_hash,
    file_hash,
    raise_if_refused,
    read_json,
    read_record,
    write_atomically,
    write_json,
    write_text,
)
from mdkd_auto.core.records import Fold, Normalisation, Splits


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_makes_folders_and_keeps_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "patient.7.nii.gz"
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        assert not temporary.exists()  # for writers that refuse to replace a file
        seen.append(temporary)
        temporary.write_bytes(b"content")

    write_atomically(path, write)
    assert seen[0].parent == path.parent
    assert seen[0].name.endswith(".nii.gz")
    write_text(path, "Größe")
    assert path.read_text(encoding="utf-8") == "Größe"
    assert list(path.parent.iterdir()) == [path]


def test_records_there_and_back(tmp_path: Path) -> None:
    splits = Splits(test=("a",), folds=(Fold(train=("b", "c"), val=("d",)), Fold(train=("d",), val=("b", "c"))))
    write_json(tmp_path / "splits.json", splits)
    assert read_record(tmp_path / "splits.json", Splits) == splits
    normalisation = Normalisation(scheme="ct", lower=-100.5, upper=0.1 + 0.2, mean=1e-9, std=3.0)
    write_json(tmp_path / "normalisation.json", normalisation)
    assert read_record(tmp_path / "normalisation.json", Normalisation) == normalisation


def test_an_unknown_field_is_named_with_file_and_allowed_fields(tmp_path: Path) -> None:
    path = tmp_path / "normalisation.json"
    write_json(path, {"scheme": "ct", "meen": 3.0})
    with pytest.raises(PlanError) as caught:
        read_record(path, Normalisation, PlanError)
    for words in (str(path), "meen", "scheme, masked, lower, upper, mean, std"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [({"scheme": "percentile"}, "percentile"), ({"scheme": "ct", "mean": "3"}, "$.mean"), ({}, "scheme")],
)
def test_a_wrong_value_is_named(tmp_path: Path, content: dict[str, object], named: str) -> None:
    write_json(tmp_path / "normalisation.json", content)
    with pytest.raises(MdkdError) as caught:
        read_record(tmp_path / "normalisation.json", Normalisation)
    assert named in str(caught.value)


def test_unreadable_json_is_located(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(MdkdError, match=r"plan\.json: the file does not exist"):
        read_json(path)
    path.write_text('{\n  "a": 1,\n  b\n}')
    with pytest.raises(MdkdError, match=r"plan\.json: not valid JSON: .*line 3, column 3"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(MdkdError, match="not UTF-8"):
        read_json(path)


def test_content_hash(tmp_path: Path) -> None:
    a = {"x": 1, "y": {"p": [1, 2], "q": None}}
    b = {"y": {"q": None, "p": [1, 2]}, "x": 1}
    assert list(a) != list(b)
    assert content_hash(a) == content_hash(b)
    assert content_hash(a) != content_hash({**a, "x": 2})
    assert content_hash({"p": [1, 2]}) != content_hash({"p": [2, 1]})
    fold = Fold(train=("a",), val=("b",))
    assert content_hash(fold) == content_hash({"val": ["b"], "train": ["a"]})
    write_json(tmp_path / "fold.json", fold)
    assert content_hash(json.loads((tmp_path / "fold.json").read_text())) == content_hash(fold)


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_hash(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "large").write_bytes(b"a" * 2_000_000)
    (tmp_path / "larger").write_bytes(b"a" * 2_000_001)
    assert file_hash(tmp_path / "large") != file_hash(tmp_path / "larger")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "ulimit -n"),
        (errno.EACCES, "give yourself the right"),
        (errno.EIO, "check the disk"),
        (errno.ESTALE, "network drive"),
        (errno.ENOMEM, "free some memory"),
    ],
)
def test_what_the_system_refuses_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    raise_if_refused(path, ValueError("bad magic number"))  # readable: damage
    with pytest.raises(ReadError, match=words):
        raise_if_refused(path, OSError(number, os.strerror(number)))
    monkeypatch.setattr("io.open", refuse)
    with pytest.raises(ReadError, match=words):
        read_json(path)
    monkeypatch.setattr("mdkd_auto.core.files.open", refuse, raising=False)
    with pytest.raises(ReadError, match=words):  # the library hid the reason
        raise_if_refused(path, RuntimeError("unknown format"))


def test_a_folder_or_a_link_to_nothing_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "splits.json").mkdir()
    (tmp_path / "plan.json").symlink_to("elsewhere.json")
    (tmp_path / "ring.json").symlink_to("ring.json")
    with pytest.raises(MdkdError, match="is a folder; expected a file"):
        read_json(tmp_path / "splits.json")
    with pytest.raises(MdkdError, match=r"does not exist; it is a link to elsewhere\.json"):
        read_json(tmp_path / "plan.json")
    with pytest.raises(MdkdError, match=r"ring\.json: cannot be read"):
        read_json(tmp_path / "ring.json")
