"""Files written whole or not at all, and records as JSON."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mdkd_auto.errors import MdkdError

Record = TypeVar("Record")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path beside ``path`` (same ending), then put that file in its place.

    A reader sees the old file or the new one, never a part; a failed write leaves the old file and no litter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=".tmp_", suffix=ending, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.unlink()  # some writers refuse to replace a file
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: _write_bytes(temporary, text.encode("utf-8")))


def write_json(path: Path, content: Any) -> None:
    """Write a record or plain JSON value, indented, atomically."""
    write_text(path, to_json_text(content))


def to_json_text(content: Any) -> str:
    """Indented JSON of a record or a plain value."""
    return json.dumps(msgspec.to_builtins(content), indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises MdkdError naming the file, line and column if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MdkdError(f"{path}: the file does not exist") from None
    except UnicodeDecodeError as error:
        raise MdkdError(f"{path}: not UTF-8 text ({error})") from None
    except json.JSONDecodeError as error:
        raise MdkdError(f"{path}: not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None


def read_record(path: Path, kind: type[Record], error: type[MdkdError] = MdkdError) -> Record:
    """Read a record; unknown or ill-typed fields raise ``error`` with the file, the field and what is allowed."""
    return to_record(read_json(path), kind, str(path), error)


def to_record(content: Any, kind: type[Record], where: str, error: type[MdkdError] = MdkdError) -> Record:
    """Convert parsed JSON to a record; see :func:`read_record`."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as problem:
        unknown = "unknown field" in str(problem)
        fields = ", ".join(getattr(kind, "__struct_fields__", ()))
        allowed = f". Fields of {kind.__name__}: {fields}" if unknown else ""
        raise error(f"{where}: {problem}{allowed}") from None


def content_hash(content: Any) -> str:
    """SHA-256 (hex) of a record or JSON value, independent of the order of keys."""
    text = json.dumps(msgspec.to_builtins(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write_bytes(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
