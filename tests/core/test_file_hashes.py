"""Hashes that are remembered, and when a file is read again."""

import os
from pathlib import Path

import pytest

from mdkd_auto.core import file_hashes as module
from mdkd_auto.core.file_hashes import FileHashes
from mdkd_auto.core.files import file_hash


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(module, "file_hash", counted)
    monkeypatch.setattr(module, "SETTLED_NS", 0)
    return names


def test_an_unchanged_file_is_read_once_by_many_commands(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"one")
    for _ in range(2):
        hashes = FileHashes(tmp_path / "hashes.json")
        assert hashes(path) == hashes(path) == file_hash(path)
        hashes.save()
    assert read == ["image"]


def test_a_file_of_the_same_size_and_date_is_read_again(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"one")
    hashes = FileHashes(tmp_path / "hashes.json")
    first, date = hashes(path), path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(date, date))
    assert path.stat().st_mtime_ns == date
    assert hashes(path) == file_hash(path) != first


def test_a_file_written_just_now_is_not_trusted_yet(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock's tick may hold two writes."""
    monkeypatch.setattr(module, "SETTLED_NS", 3600 * 10**9)
    path = tmp_path / "image"
    path.write_bytes(b"one")
    hashes = FileHashes(tmp_path / "hashes.json")
    assert hashes(path) == hashes(path)
    assert read == ["image", "image"]
    hashes.save()
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.parametrize("damage", ["", "[", '{"files": {"a": 1}}', '{"other": {}}'])
def test_a_damaged_store_is_made_again(tmp_path: Path, read: list[str], damage: str) -> None:
    path, store = tmp_path / "image", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    store.write_text(damage)
    hashes = FileHashes(store)
    assert hashes(path) == file_hash(path)
    hashes.save()
    assert FileHashes(store)(path) == file_hash(path)
    assert read == ["image"]


def test_files_that_are_gone_are_forgotten(tmp_path: Path, read: list[str]) -> None:
    for name in ("image", "other"):
        (tmp_path / name).write_bytes(b"one")
    hashes = FileHashes(tmp_path / "hashes.json")
    hashes(tmp_path / "image"), hashes(tmp_path / "other")
    (tmp_path / "other").unlink()
    hashes.save()
    assert '/other"' not in (tmp_path / "hashes.json").read_text()
    with pytest.raises(FileNotFoundError):
        hashes(tmp_path / "other")
