"""Files written whole or not at all; JSON read strictly; records as JSON."""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.strict_json import parse_json
from mdkd_auto.core.text import escaped

Record = TypeVar("Record")

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EISDIR}  # file systems that cannot flush a folder
_TEMPORARY = re.compile(r"\.tmp_([0-9a-f]{8})_(\d{1,9})_")  # machine, process
_ABANDONED_SECONDS = 24 * 3600.0

_NO_HANDLE = {errno.EMFILE, errno.ENFILE}
_MORE_HANDLES = "too many files are open: raise the limit (ulimit -n) or use fewer workers (-j)"
_NO_RIGHT = {errno.EACCES, errno.EPERM}
_NO_DISK = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.EAGAIN, errno.ENODEV, errno.ENXIO}
_HANDLES_OF_A_READER = 4  # that a library may hold at a time: of a header, its voxels, and what it loads meanwhile


class ReadError(MdkdError):
    """The system refuses to read a file: no handle, no right, no memory, a failing disk. The file may be sound."""

    def __init__(self, file: str, found: str) -> None:
        super().__init__(file, found)
        self.file, self.found = file, found

    def __str__(self) -> str:
        return f"{self.file}: {self.found}"


class WriteError(MdkdError):
    """A file cannot be written: the disk is full, read-only or broken. Not the fault of the case at hand."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path beside ``path`` (same ending), then put that file in its place.

    A reader sees the old file or the new one, never a part; a failed write leaves the old file and no litter.
    What a killed process left behind is removed by the next that writes into the folder. Raises WriteError.
    """
    try:
        make_folder(path.parent)
        _remove_litter(path.parent)
        temporary = _temporary_beside(path)
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        untouched = "; the earlier file is untouched" if path.is_file() else ""
        if path.is_dir():
            raise WriteError(f"{path}: is a folder, and a file is to be written there; move it elsewhere") from error
        raise WriteError(f"{path}: {_unwritten_because(error)}{untouched}") from error
    try:
        _flush_folder(path.parent)
    except OSError as error:
        words = f"written, but the disk may not keep it ({error.strerror or error}); run the command again"
        raise WriteError(f"{path}: {words}") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises WriteError, also where there is a file in the place of one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: {_no_folder_because(folder, error)}") from error


def _no_folder_because(folder: Path, error: OSError) -> str:
    for part in (folder, *folder.parents):
        if os.path.islink(part) and not os.path.exists(part):
            return f"cannot be made: {part} is a link to {os.readlink(part)}, which is not there; correct the link"
        if os.path.exists(part) and not os.path.isdir(part):
            return f"cannot be made: {part} is a file, and a folder is expected; move it elsewhere"
    return _unwritten_because(error)


def _unwritten_because(error: OSError) -> str:
    remedy = "free some space" if error.errno in _NO_SPACE else "check the disk and its permissions"
    if error.errno in _NO_HANDLE:
        remedy = _MORE_HANDLES
    elif error.errno == errno.ENAMETOOLONG:
        remedy = "use shorter names of files and folders"
    return f"cannot be written ({error.strerror or error}); {remedy} and run the command again"


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; bytes of names that are none are written out."""
    write_bytes(path, escaped(text).encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a record or plain JSON value, indented, atomically."""
    write_text(path, to_json_text(content))


def to_json_text(content: Any) -> str:
    """Indented JSON of a record or a plain value."""
    return escaped(json.dumps(msgspec.to_builtins(content), indent=2, ensure_ascii=False), "\\\\") + "\n"


def read_json(path: Path, any_number: bool = False) -> Any:
    """Parse a JSON file; see :func:`strict_json.parse_json`. Raises ReadError where the system refuses to read it."""
    return parse_json(read_bytes(path), str(path), any_number)


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises MdkdError where there is none, ReadError where the system refuses to read it."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        aim = f"; it is a link to {os.readlink(path)}" if path.is_symlink() else ""
        raise MdkdError(f"{path}: the file does not exist{aim}") from None
    except IsADirectoryError:
        raise MdkdError(f"{path}: is a folder; expected a file") from None
    except OSError as error:
        raise ReadError(str(path), unread_because(error)) from error


def refusal_of(path: Path, error: BaseException) -> str | None:
    """Why the system, and not what the file holds, made a library fail with ``error``; None where it did not.

    Libraries hide the reason or call every refusal damage, so the file is opened and read to its end once more.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and is_refusal(cause):
            return unread_because(cause)
        cause = cause.__cause__ or cause.__context__
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(open(path, "rb", buffering=0)) for _ in range(_HANDLES_OF_A_READER)]
            while files[0].read(1 << 20):
                pass
    except OSError as probed:
        return unread_because(probed) if is_refusal(probed) else None
    return None


def raise_if_refused(path: Path, error: BaseException) -> None:
    """Raise ReadError where :func:`refusal_of` knows why."""
    why = refusal_of(path, error)
    if why is not None:
        raise ReadError(str(path), why) from error


def is_refusal(error: OSError) -> bool:
    """Whether the system failed, so that the same file may be read later or by somebody else."""
    return error.errno in _NO_HANDLE | _NO_RIGHT | _NO_DISK | {errno.ENOMEM}


def unread_because(error: OSError) -> str:
    """Why a file cannot be read, and what to do."""
    if error.errno in _NO_HANDLE:
        remedy = _MORE_HANDLES
    elif error.errno in _NO_RIGHT:
        remedy = "give yourself the right to read it"
    elif error.errno == errno.ENOMEM:
        remedy = "free some memory or use fewer workers (-j)"
    else:
        remedy = "check the disk or the network drive"
    return f"cannot be read ({error.strerror or error}); {remedy} and run the command again"


def read_record(path: Path, kind: type[Record], error: type[MdkdError] = MdkdError, any_number: bool = False) -> Record:
    """Read a record; unknown or ill-typed fields raise ``error`` with the file, the field and what is allowed.

    ``any_number``: of results, which may be NaN.
    """
    return to_record(read_json(path, any_number), kind, str(path), error)


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
    """SHA-256 (hex) of a file's bytes. Raises ReadError where the system refuses to read it."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        if not is_refusal(error):
            raise
        raise ReadError(str(path), unread_because(error)) from error
    return digest.hexdigest()


# --- temporary files ------------------------------------------------------------------------------------------------


def _temporary_beside(path: Path) -> Path:
    """A new name that says which process is writing."""
    ending = "".join(path.suffixes[-2:])
    return path.parent / f".tmp_{_machine()}_{os.getpid()}_{secrets.token_hex(4)}{ending}"


@functools.cache  # once a folder and process: a folder of thousands of cases is not listed at every write
def _remove_litter(folder: Path) -> None:
    """Remove temporary files whose process is dead, and those of other machines that nobody touched for a day."""
    for file in folder.glob(".tmp_*"):
        name = _TEMPORARY.match(file.name)
        with suppress(OSError):
            if name is not None and name[1] == _machine():
                abandoned = not _is_running(int(name[2]))
            else:
                abandoned = time.time() - file.stat().st_mtime > _ABANDONED_SECONDS
            if abandoned:
                file.unlink()


@functools.cache
def _machine() -> str:
    """This machine and its process table (a container has its own): elsewhere a process number means nothing."""
    table = ""
    with suppress(OSError):
        table = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {table}".encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # there signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _flush_folder(folder: Path) -> None:
    """Make a renaming last through a power cut."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
