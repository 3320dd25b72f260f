"""How a command ends: mistakes, interruptions and refusals of the machine as messages, a bug with its traceback."""

import argparse
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.cli import ablate, demo, doctor, evaluate, plan_and_preprocess, predict, train, train_all_permutations
from mdkd_auto.cli.common import parser, run
from mdkd_auto.core.errors import DatasetError

Command = Callable[..., Any]
DISK = "check the disk and its permissions"
GOES_ON = "what was done is kept, the same command goes on from there\n"


@pytest.fixture
def ending(command: Command) -> Callable[[Callable[[], object]], Any]:
    """What a command says when its work ends so."""

    def end(happens: Callable[[], object]) -> Any:
        def work(_: argparse.Namespace) -> int:
            happens()
            return 0

        return command(lambda argv: run(parser("test"), work, argv))

    return end


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def full(number: int) -> Callable[[], None]:
    return raising(OSError(number, os.strerror(number), "/data/x.json"))


@pytest.mark.parametrize(
    ("happens", "status", "said"),
    [
        (lambda: None, 0, ""),
        (raising(DatasetError("x.json: no labels")), 1, "error: x.json: no labels\n"),
        (lambda: signal.raise_signal(signal.SIGINT), 130, f"interrupted; {GOES_ON}"),
        (lambda: signal.raise_signal(signal.SIGTERM), 143, f"interrupted; {GOES_ON}"),
        (full(errno.ENOSPC), 1, f"error: /data/x.json: No space left on device; free some space; {GOES_ON}"),
        (full(errno.EDQUOT), 1, f"error: /data/x.json: Disk quota exceeded; free some space; {GOES_ON}"),
        (full(errno.EROFS), 1, f"error: /data/x.json: Read-only file system; {DISK}; {GOES_ON}"),
        (full(errno.EFBIG), 1, f"error: /data/x.json: File too large; {DISK}; {GOES_ON}"),
        (full(errno.EIO), 1, f"error: /data/x.json: Input/output error; {DISK}; {GOES_ON}"),
        (full(errno.EPERM), 1, f"error: /data/x.json: Operation not permitted; {DISK}; {GOES_ON}"),
        (full(errno.ENAMETOOLONG), 1, f"error: /data/x.json: File name too long; use a shorter path; {GOES_ON}"),
        (
            full(errno.EMFILE),
            1,
            "error: /data/x.json: Too many open files; raise the limit (ulimit -n) or use fewer "
            f"workers (-j); {GOES_ON}",
        ),
        (
            raising(OSError(errno.ENOSPC, "No space left on device")),
            1,
            f"error: No space left on device; free some space; {GOES_ON}",
        ),
        (raising(MemoryError()), 1, f"error: not enough memory (MemoryError): use fewer workers (-j); {GOES_ON}"),
        (raising(BrokenPipeError()), 1, ""),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="words of POSIX")
def test_what_is_said(ending: Any, happens: Callable[[], object], status: int, said: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    answer = ending(happens)
    assert (answer.status, answer.err, answer.out) == (status, said, "")
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("error", [KeyError("spacing"), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_a_bug_shows_where_it_is(ending: Any, error: Exception) -> None:
    answer = ending(raising(error))
    assert answer.status == 1
    assert answer.err.startswith("Traceback (most recent call last):\n")
    assert type(error).__name__ in answer.err
    assert "mdkd_doctor" in answer.err.splitlines()[-1]
    assert answer.err.count("mdkd_doctor") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(ending: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    answer = ending(lambda: (tmp_path / "x").write_text("x"))
    tmp_path.chmod(0o700)
    assert answer.err == f"error: {tmp_path / 'x'}: Permission denied; {DISK}; {GOES_ON}"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_is_terminated(tmp_path: Path) -> None:
    """From outside, while it does anything."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from mdkd_auto.cli.common import parser, run\n"
        "sys.exit(run(parser('test'), lambda _: print('begun', flush=True) or time.sleep(60), []))\n"
    )
    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.terminate()
    assert child.communicate(timeout=20)[1] == f"interrupted; {GOES_ON}"
    assert child.returncode == 143


def test_names_in_the_data_do_not_reach_the_terminal_as_they_are(command: Callable[..., Any], tmp_path: Path) -> None:
    """A folder may be called anything."""
    folder = tmp_path / "raw" / "Dataset001_\x1b[2Jx"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    said = command(plan_and_preprocess.main, "--root", tmp_path, "-j", 1)
    assert said.status == 1
    assert "\x1b" not in said.out + said.err
    assert "Dataset001_\\x1b[2Jx" in said.err


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_that_a_library_swallows_is_not_damage(ending: Any, kind: signal.Signals, status: int) -> None:
    """Compiled code that calls Python may answer an exception with an error of its own, or count a case as failed."""

    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(kind)
        raise DatasetError("x.safetensors: unreadable weights; delete it")

    answer = ending(swallow)
    assert (answer.status, answer.err) == (status, f"interrupted; {GOES_ON}")


def test_a_command_that_ends_well_although_it_was_interrupted(ending: Any) -> None:
    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    assert ending(swallow).status == 0


LONG = "a" * 300  # no file system takes more than 255 bytes


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        *((one, ("--root", LONG)) for one in (plan_and_preprocess.main, train_all_permutations.main, demo.main)),
        (train.main, ("901", "--root", LONG)),
        (ablate.main, ("labels", "--root", LONG)),
        (evaluate.main, ("--root", LONG)),
        (evaluate.main, ("-i", LONG, "-l", "here")),
        (evaluate.main, ("-i", ".", "-l", LONG)),
        (predict.main, ("-m", LONG, "-i", ".", "-o", "masks")),
        (predict.main, ("-m", ".", "-i", LONG, "-o", "masks")),
        (predict.main, ("-m", ".", "-i", ".", "-o", LONG)),
        (train.main, ("901", "--settings", LONG)),
        (doctor.main, ("-o", LONG)),
    ],
)
def test_a_name_that_no_file_system_takes(
    command: Command, main: Any, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(main, *arguments)
    assert said.status == 1
    assert "Traceback" not in said.out + said.err
    assert "too long" in said.err
    assert list(tmp_path.iterdir()) == []
