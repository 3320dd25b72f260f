"""Learning curves: the validation score of the models of a target over their updates."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.core.tables import read_numbers
from mdkd_auto.execution.run_folder import read_run
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.report.comparison import Row
from mdkd_auto.tasks.task_scores import TASK_SCORES

NOT_COMPARED = ("multi-head",)  # judged on all its data sets; the others on the same fixed patches of the target
KNOWN = {"data-set-specific": ("#000000", "--"), "joint teacher": ("#e69f00", "-."), "student": ("#0072b2", "-")}
OTHERS = ("#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#7f7f7f", "#f0e442")  # Okabe and Ito 2008, and a grey

_MARGIN = 0.03  # of the score's axis

Line = NDArray[np.float64]  # (2, epochs): updates, scores


def draw_learning(path: Path, experiment: Experiment, row: Row) -> None:
    """One picture of a target: replicates thin, their mean thick. Raises MdkdError where no run has a log."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    looks = looks_of([column for column in row.folders if column not in NOT_COMPARED])
    for column, (colour, style) in looks.items():
        runs = [experiment.root.results / folder for folder in row.folders.get(column, ())]
        lines = [line for line in map(read_line, runs) if line is not None]
        for line in lines if len(lines) > 1 else ():
            axes.plot(line[0], line[1], style, color=colour, linewidth=0.7, alpha=0.5)
        if lines:
            label = column if len(lines) == 1 else f"{column}, mean of {len(lines)}"
            axes.plot(*mean_line(lines), style, color=colour, linewidth=2.2, label=label)
    if not axes.lines:
        raise MdkdError(f"{row.target}: none of its runs has a progress.csv with an epoch in it")
    axes.set_xlabel("updates")
    axes.set_ylabel(f"validation score ({TASK_SCORES[experiment.plan.task].scale.quick})")
    shown = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    axes.set_ylim(max(0.0, shown.min() - _MARGIN), min(1.0, shown.max() + _MARGIN))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(row.target.replace("$", r"\$"))
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def looks_of(columns: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and style of each column: those of a training's table have their own, an ablation's take the next."""
    others = iter((colour, style) for style in ("-", ":", "--") for colour in OTHERS)
    return {column: KNOWN.get(column) or next(others, ("#7f7f7f", "-")) for column in columns}


def read_line(run: Path) -> Line | None:
    """Updates and validation scores of a run; None where it has no log, or an empty one."""
    path = run / "progress.csv"
    if not path.is_file():
        return None
    line: Line = read_numbers(path, ("epoch", "validation_score")).T
    if not line.size:
        return None
    line[0] *= read_run(run).settings.iterations_per_epoch
    return line


def mean_line(lines: list[Line]) -> Line:
    """The mean of replicates, as far as all of them go: one that stopped early would make it jump."""
    length = min(line.shape[1] for line in lines)
    mean: Line = np.mean([line[:, :length] for line in lines], axis=0)
    return mean
