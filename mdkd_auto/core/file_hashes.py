"""SHA-256 of raw files, remembered: a file that did not change since it was hashed is not read again."""

import functools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import WriteError, file_hash, read_record, write_json
from mdkd_auto.core.records import Record

SETTLED_NS = 2_000_000_000  # a file that changed later than this may change again within one tick of its clock

HashOf = Callable[[Path], str]
Stamp = tuple[int, int, int, int]  # bytes, time of the content and of the inode (ns), inode


class Known(Record, frozen=True, kw_only=True):
    """The stored hashes: of each path how the file looked, and its hash."""

    files: dict[str, tuple[Stamp, str]]


class FileHashes:
    """Call it with a path. Raises FileNotFoundError, as ``file_hash`` does.

    A write changes the time of the inode, which no program can set back; so even a file with its old size and a
    restored date is read again.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._files: dict[str, tuple[Stamp, str]] | None = None
        self._changed = False

    def __call__(self, path: Path) -> str:
        known = self._known()
        stamp = _stamp(path)
        found = known.get(str(path))
        if found is not None and found[0] == stamp:
            return found[1]
        digest = file_hash(path)
        if _stamp(path) == stamp and time.time_ns() - max(stamp[1:3]) > SETTLED_NS:
            known[str(path)] = (stamp, digest)
            self._changed = True
        return digest

    def save(self) -> None:
        """Keep them for the next command; where the folder takes no file, that command hashes again."""
        if not self._changed:
            return
        kept = {path: entry for path, entry in self._known().items() if os.path.exists(path)}
        with suppress(WriteError):
            write_json(self.store, Known(files=kept))
        self._changed = False

    def _known(self) -> dict[str, tuple[Stamp, str]]:
        if self._files is None:
            self._files = {}
            with suppress(MdkdError):  # missing, damaged, or of another version: hashed again
                self._files = read_record(self.store, Known).files
        return self._files


@functools.cache
def file_hashes(store: Path) -> FileHashes:
    """The hashes kept in a file, read once per process."""
    return FileHashes(store)


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
