"""``python -m mdkd_auto COMMAND ...``: every command, also where the folder of scripts is not on the PATH."""

import sys
from collections.abc import Callable, Sequence

from mdkd_auto import __version__
from mdkd_auto.cli import ablate, demo, doctor, evaluate, plan_and_preprocess, predict, train, train_all_permutations

Main = Callable[[Sequence[str] | None], int]
COMMANDS: dict[str, tuple[Main, str]] = {
    "plan_and_preprocess": (plan_and_preprocess.main, "check, plan and preprocess the raw data sets"),
    "train_all_permutations": (train_all_permutations.main, "train every target with the others of its group"),
    "train": (train.main, "train one target with chosen sources"),
    "ablate": (ablate.main, "train and compare variants of the method"),
    "predict": (predict.main, "predict new images with a trained network"),
    "evaluate": (evaluate.main, "score predictions, or write the tables of finished runs"),
    "doctor": (doctor.main, "check the installation and the root folder; write a report"),
    "demo": (demo.main, "run the whole pipeline on phantoms in a few minutes"),
}
PREFIX = "mdkd_"  # of the installed scripts: mdkd_train is the same as python -m mdkd_auto train


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"mdkd_auto {__version__}")
        return 0
    name = arguments[0].removeprefix(PREFIX)
    if name not in COMMANDS:
        print(f"error: no command {arguments[0]!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    sys.argv[0] = f"{PREFIX}{name}"  # for the usage line
    return COMMANDS[name][0](arguments[1:])


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(["usage: python -m mdkd_auto COMMAND [--help] ...", "", "commands:", *lines])


if __name__ == "__main__":
    sys.exit(main())
