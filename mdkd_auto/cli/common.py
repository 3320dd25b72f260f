"""Shared by all commands: the root folder, settings flags, logging, and errors without a traceback."""

import argparse
import errno
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mdkd_auto import __version__
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.paths import DEFAULT_ROOT, ROOT_VARIABLE, Root
from mdkd_auto.core.text import escaped, is_utf8
from mdkd_auto.training.interruption import Terminated, termination_interrupts

logger = logging.getLogger("mdkd_auto")

_HANDLES = (errno.EMFILE, errno.ENFILE)
_REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
    errno.ENOMEM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    *_HANDLES,
)  # caused by the disk, its permissions or a path
_REMEDIES = {
    **dict.fromkeys(_HANDLES, "raise the limit (ulimit -n) or use fewer workers (-j)"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    errno.ENAMETOOLONG: "use a shorter path",
}
_GOES_ON = "what was done is kept, the same command goes on from there"

# Flags for the common settings; every other one goes into a --settings file.
_SETTING_FLAGS: tuple[tuple[str, str, type, str], ...] = (
    ("--epochs", "epochs", int, "maximum number of epochs (default 300)"),
    ("--iterations", "iterations_per_epoch", int, "updates per epoch (default 250)"),
    (
        "--teacher-arch",
        "teacher_architecture",
        str,
        "unet or tresunet (default unet); for classification "
        "medvit_small, _base, _large, unet (the plan's encoder) or a timm name (default medvit_small); for detection "
        "faster_rcnn_resnet50, _resnet18, _small, rfdetr_tiny, _nano, _small, _base (default faster_rcnn_resnet50)",
    ),
    ("--student-arch", "student_architecture", str, "same choices as --teacher-arch (default: the teachers' network)"),
    ("--width", "width", int, "feature maps of the first stage (default: from the plan); not for detection"),
    ("--student-width", "student_width", int, "width of the student and the baselines (default: --width)"),
    ("--batch-size", "batch_size", int, "patches per update (default: from the plan)"),
    ("--lr", "learning_rate", float, "learning rate of Adam (default 1e-4)"),
    ("--seed", "seed", int, "random seed of weights, batches and augmentation (default 0)"),
    ("--fold", "fold", int, "cross-validation fold (default 0)"),
    ("--device", "device", str, "auto, cpu, cuda, cuda:1, mps (default auto)"),
    ("--precision", "precision", str, "auto, fp32 or bf16 (default auto)"),
)


def parser(description: str, default_root: str = f"${ROOT_VARIABLE}, else ./{DEFAULT_ROOT}") -> argparse.ArgumentParser:
    """A parser with the arguments common to all commands."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--root", type=Path, help=f"folder with raw/, preprocessed/ and results/ (default: {default_root})"
    )
    made.add_argument("--verbose", action="store_true", help="log debug messages")
    made.add_argument("--version", action="version", version=f"mdkd_auto {__version__}")
    return made


def add_settings(made: argparse.ArgumentParser) -> None:
    """The flags of training settings."""
    made.add_argument("-c", "--configuration", default="2d", choices=("2d", "3d_fullres"), help="default 2d")
    made.add_argument("--settings", type=Path, help="JSON file with any of the settings in docs/settings.md")
    made.add_argument("--preset", help="the paper's hyperparameters for covidx, rtpcr, covid-qu-ex, oasis or adni")
    made.add_argument(
        "--keep-classes",
        action="store_true",
        default=None,
        help="train the target's own classes instead of one foreground class",
    )
    for flag, name, kind, text in _SETTING_FLAGS:
        made.add_argument(flag, dest=name, type=kind, help=text)


def add_training(made: argparse.ArgumentParser) -> None:
    """The flags of a command that trains."""
    made.add_argument(
        "--dry-run", action="store_true", help="print the jobs, their state and an estimate of the time; train nothing"
    )
    add_replicates(made)
    add_settings(made)


def training_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Configuration, seeds, folds and dry run, as keywords of the pipeline's functions."""
    return {name: getattr(arguments, name) for name in ("configuration", "seeds", "folds", "dry_run")}


def add_replicates(made: argparse.ArgumentParser) -> None:
    """The flags that repeat a training."""
    made.add_argument("--seeds", type=int, default=1, help="number of seeds, starting at --seed (default 1)")
    made.add_argument("--folds", type=int, default=1, help="number of folds, starting at 0 (default: only --fold)")


def settings_from(arguments: argparse.Namespace) -> Any:
    """The settings of a command line. Raises SettingsError."""
    from mdkd_auto.core.settings import load_settings

    names = [name for _, name, _, _ in _SETTING_FLAGS] + ["keep_classes"]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return load_settings(arguments.settings, given, arguments.preset)


def root_from(arguments: argparse.Namespace) -> Root:
    """The root folder: flag, else environment, else ./mdkd_data; says which.

    Raises MdkdError where it, or a folder in it, cannot be one.
    """
    root = find_root(arguments)
    _check_name(root.folder)
    for part in (root.folder, root.raw, root.preprocessed, root.results):
        if os.path.islink(part) and not os.path.exists(part):
            raise MdkdError(f"{part}: is a link to {os.readlink(part)}, which is not there; correct the link")
        if os.path.exists(part) and not os.path.isdir(part):
            raise MdkdError(f"{part}: is a file, and a folder is expected; move it elsewhere, or give another --root")
    return root


def find_root(arguments: argparse.Namespace) -> Root:
    """Like :func:`root_from`, without checking the folder."""
    if arguments.root is not None:
        folder, source = arguments.root, "--root"
    elif os.environ.get(ROOT_VARIABLE, "").strip():
        folder, source = Path(os.environ[ROOT_VARIABLE]), ROOT_VARIABLE
    else:
        folder, source = Path(DEFAULT_ROOT), "default"
    folder = folder.absolute()
    logger.info("root: %s (%s)", folder, source)
    return Root(folder)


def run(made: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    """Parse and work; returns the exit status.

    A user's mistake, an interruption, and what the machine refuses (a full disk, a folder without permission, memory)
    become a message; a bug shows its traceback.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = made.parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO, format="%(message)s", stream=sys.stdout, force=True
    )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(message)s"))
    for library in ("matplotlib", "PIL", "filelock", "nibabel", "numexpr", "openTSNE", "faster_coco_eval"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for category in (FutureWarning, DeprecationWarning):  # what libraries tell each other's developers
        warnings.filterwarnings("ignore", category=category, module=r"(torch|torchvision|timm|transformers)\b")
    status = 1
    interrupt: type[KeyboardInterrupt] | None = None
    try:
        _check_words(words)
        for value in vars(arguments).values():
            if isinstance(value, Path):
                _check_name(value.absolute())
        with termination_interrupts() as raised:
            try:
                status = work(arguments)
            finally:
                interrupt = raised() if status else None  # what a library says that was interrupted is no error
    except KeyboardInterrupt as error:
        interrupt = type(error)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if interrupt is None:
            _tell(error)
    if interrupt is None:
        return status
    print(f"interrupted; {_GOES_ON}", file=sys.stderr)
    return 128 + (signal.SIGTERM if issubclass(interrupt, Terminated) else signal.SIGINT)


def _tell(error: Exception) -> None:
    """Print the error; for a bug, with its traceback."""
    if isinstance(error, MdkdError):
        _say(f"error: {error}")
    elif isinstance(error, MemoryError):
        _say(f"error: not enough memory ({str(error) or 'MemoryError'}): use fewer workers (-j); {_GOES_ON}")
    elif isinstance(error, OSError) and error.errno in _REFUSALS:
        where = f"{error.filename}: " if error.filename else ""
        remedy = _REMEDIES.get(error.errno, "check the disk and its permissions")
        _say(f"error: {where}{error.strerror}; {remedy}; {_GOES_ON}")
    else:
        traceback.print_exception(error)
        print(
            "error: internal error (a bug); please report it with the file that mdkd_doctor writes",
            file=sys.stderr,
        )


def _check_words(words: Sequence[str]) -> None:
    """Raise MdkdError for an argument without text, as of a shell's variable that is not set: as a path it would be the
    working folder."""
    for before, word in zip(("", *words), words, strict=False):
        name, equals, value = word.partition("=")
        if not word.strip():
            where = f"the argument after {before}" if before.strip() else "the first argument"
        elif name.startswith("--") and equals and not value.strip():
            where = f"the value of {name}"
        else:
            continue
        raise MdkdError(f"{where} is empty; expected a name or a path. Is a variable of the shell not set?")


def _check_name(path: Path) -> None:
    """Raise MdkdError for a path that cannot be written down: libraries and JSON files take none."""
    if not is_utf8(str(path)):
        raise MdkdError(
            f"{escaped(str(path))}: the path is not UTF-8, as of an archive packed on another system; "
            "rename the folder or file"
        )


def report_problems(problems: Sequence[str]) -> int:
    """Name what went wrong at the end, where it is seen; returns the exit status."""
    if not problems:
        return 0
    listed = "\n".join(f"  - {problem}" for problem in problems)
    _say(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; the rest is done:\n{listed}")
    return 1


class _Plain(logging.Formatter):
    """Messages as they are, but for control characters of names in the data."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def plain(text: str) -> str:
    """The text with control characters written out (\\x1b): a name may not write to a terminal what it likes."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else repr(sign)[1:-1] for sign in text)


def _say(text: str) -> None:
    print(plain(text), file=sys.stderr)
