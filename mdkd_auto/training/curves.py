"""The log of a run: a CSV table and its curves as a picture."""

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure

from mdkd_auto.files import write_atomically, write_text

_NOT_TERMS = {"epoch", "validation_loss", "validation_score", "learning_rate", "seconds"}


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One row an epoch, every loss term a column."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in history)
    write_text(path, text.getvalue())


def draw_curves(path: Path, history: list[dict[str, float]], title: str) -> None:
    """Loss terms, validation score and learning rate over epochs, as PNG."""
    if not history:
        return
    figure = Figure(figsize=(8, 9), layout="constrained")
    losses, scores, rates = figure.subplots(3, 1, sharex=True)
    epochs = [row["epoch"] for row in history]
    terms = dict.fromkeys(name for row in history for name in row if name not in _NOT_TERMS)
    for name in terms:
        losses.plot(epochs, [row.get(name, float("nan")) for row in history], label=name)
    losses.plot(epochs, [row["validation_loss"] for row in history], "k--", label="validation")
    losses.set_ylabel("loss")
    losses.legend(fontsize="small")
    losses.set_title(title.replace("$", r"\$"))
    scores.plot(epochs, [row["validation_score"] for row in history])
    scores.set_ylabel("validation score (patches)")
    scores.set_ylim(0, 1)
    rates.plot(epochs, [row["learning_rate"] for row in history])
    rates.set_yscale("log")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100))
