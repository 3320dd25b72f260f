"""The training log of a run: a CSV table and its curves as a figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mdkd_auto.core.files import write_atomically, write_text
from mdkd_auto.core.tables import table_text
from mdkd_auto.training.interfaces import TURNED_DOWN

_SCORE = "validation_score"
_NOT_TERMS = {"epoch", "validation_loss", _SCORE, "learning_rate", "seconds", TURNED_DOWN}
_POINTS = 200  # samples of a schedule's line

Schedules = Callable[[float], dict[str, float]]  # fraction of updates done -> name -> value
Lines = dict[str, tuple[list[float], list[float]]]  # name -> epochs, values


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write one row per epoch and one column per loss term. Scores round-trip exactly: they select students."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    rows = [{name: repr(value) if name == _SCORE else f"{value:.6g}" for name, value in row.items()} for row in history]
    write_text(path, table_text(columns, [[row.get(name) for name in columns] for row in rows]))


def draw_curves(
    path: Path, history: list[dict[str, float]], title: str, schedules: Schedules | None = None, of_epochs: int = 0
) -> None:
    """Plot loss terms, validation score, learning rate and schedules over epochs, as PNG.

    ``schedules`` belong to a run of ``of_epochs`` epochs and are drawn up to the last epoch trained.
    """
    if not history:
        return
    lines = schedule_lines(schedules, int(history[-1]["epoch"]), of_epochs) if schedules is not None else {}
    lines |= turned_down_line(history)
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(8, 11.5 if lines else 9), layout="constrained")
    losses, scores, rates, *last = figure.subplots(4 if lines else 3, 1, sharex=True)
    _draw_losses(losses, epochs, history)
    losses.set_title(title.replace("$", r"\$"))
    scores.plot(epochs, [row["validation_score"] for row in history])
    scores.set_ylabel("validation score (patches)")
    scores.set_ylim(0, 1)
    rates.plot(epochs, [row["learning_rate"] for row in history])
    rates.set_yscale("log")
    rates.set_ylabel("learning rate")
    for axes in last:
        _draw_schedules(axes, lines)
    (rates, *last)[-1].set_xlabel("epoch")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))  # applies to all panels, which share the axis
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100))


def schedule_lines(schedules: Schedules, last_epoch: int, of_epochs: int) -> Lines:
    """Each schedule's line: epochs from 0 to the last one trained, and its values there."""
    epochs = np.linspace(0, last_epoch, _POINTS).tolist()
    values = [schedules(epoch / of_epochs) for epoch in epochs]
    return {name: (epochs, [value[name] for value in values]) for name in values[0]}


def turned_down_line(history: list[dict[str, float]]) -> Lines:
    """The factor on w(e) per epoch, as steps; {} if distillation cannot be turned down."""
    steps = [
        (epoch, row[TURNED_DOWN]) for row in history if TURNED_DOWN in row for epoch in (row["epoch"] - 1, row["epoch"])
    ]
    return {"w(e) is turned down to": ([epoch for epoch, _ in steps], [factor for _, factor in steps])} if steps else {}


def _draw_losses(axes: Axes, epochs: list[float], history: list[dict[str, float]]) -> None:
    terms = dict.fromkeys(name for row in history for name in row if name not in _NOT_TERMS)
    for name in terms:
        axes.plot(epochs, [row.get(name, float("nan")) for row in history], label=name)
    axes.plot(epochs, [row["validation_loss"] for row in history], "k--", label="validation")
    axes.set_ylabel("loss")
    axes.legend(fontsize="small")


def _draw_schedules(axes: Axes, lines: Lines) -> None:
    for (name, (epochs, values)), style in zip(lines.items(), ("-", "--", ":", "-."), strict=False):
        axes.plot(epochs, values, style, label=name)
    axes.set_ylabel("schedules")
    axes.set_ylim(-0.05, 1.05 * max(1.0, *(max(values) for _, values in lines.values())))
    axes.legend(fontsize="small")
