"""The one training loop: devices, precision, logging, checkpoints, resume. The objective defines what is learned.

Randomness is a pure function of (seed, update), so a resumed run draws the same numbers.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mdkd_auto.batches.augmenter import augmenter_of
from mdkd_auto.batches.sampling import Batch, PatchSampler
from mdkd_auto.core.errors import SettingsError, TrainingError
from mdkd_auto.core.files import to_record
from mdkd_auto.core.progress import progress
from mdkd_auto.core.settings import Settings
from mdkd_auto.core.text import duration
from mdkd_auto.networks.model import Encoder
from mdkd_auto.training.checkpoints import load_training, save_training, save_weights
from mdkd_auto.training.curves import draw_curves, write_history
from mdkd_auto.training.interfaces import Objective, Score
from mdkd_auto.training.interruption import deferred_interrupts

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LATEST = "checkpoint_latest.safetensors"
BEST = "checkpoint_best.safetensors"
FINAL = "checkpoint_final.safetensors"
MOST_SKIPPED = 0.01  # fraction of a run's updates: a single batch may overflow, more indicate a bug
MOST_SKIPPED_IN_A_ROW = 5
_VALIDATION_SEED = 10_000_019  # added to the sampler's seed: validation batches are never training batches
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # CUDA and MPS, CPU, cuDNN and cuBLAS


class Streams(NamedTuple):
    """The batch source of each data set."""

    training: dict[str, PatchSampler]
    validation: dict[str, PatchSampler]
    batch_size: int
    spacing_mm: tuple[float, ...]  # spacing of the patches
    upright: bool = False  # whole images, never flipped vertically


class State(msgspec.Struct):
    """The training state that changes, besides the tensors. Written into every checkpoint."""

    update: int = 0
    parts: int = 1  # micro-batches per update; above 1 if memory does not hold the whole batch
    skipped: int = 0  # updates with a non-finite loss
    skipped_in_a_row: int = 0  # consecutive skipped updates up to now
    learning_rates: list[float] = []  # one per parameter group of the optimiser
    best_loss: float | None = None
    best_score: float = 0.0
    epochs_without_gain: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0  # part of the seconds above
    wall_seconds: float = 0.0  # over all sessions, including everything besides training
    sums: dict[str, float] = {}
    history: list[dict[str, float]] = []
    plateau: dict[str, Any] = {}


def fit(
    objective: Objective, streams: Streams, settings: Settings, folder: Path, device: torch.device, title: str
) -> State:
    """Train until the budget is spent or validation stops improving; resume if ``folder`` holds a checkpoint.

    Writes the latest, best and final checkpoint, progress.csv and progress.png to ``folder``. The latest checkpoint is
    only needed to resume and may be deleted once the run is scored.
    Updates with a non-finite loss are skipped. Raises TrainingError after more than a few of them, naming the cases of
    the batch, and if memory does not hold a single patch.
    """
    try:
        return _fit(objective, streams, settings, folder, device, title)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{folder}: the memory of {device} does not hold the training, even one patch at a time. Leave more of it "
            "free, lower --width, or plan smaller patches: mdkd_plan_and_preprocess with a smaller --memory-gb or "
            "--patch-size"
        ) from error


def parameter_groups(trained: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser: first those at the learning rate, then encoders with a rate of their own."""
    encoders = [part for part in trained.modules() if isinstance(part, Encoder) and part.rate != 1]
    own = {parameter: encoder.rate for encoder in encoders for parameter in encoder.parameters()}
    rates: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in trained.parameters():
        if parameter.requires_grad:
            rates.setdefault(own.get(parameter, 1.0), []).append(parameter)
    return [{"params": some, "lr": rate * learning_rate} for rate, some in rates.items()]


def _resumed(path: Path, objective: Objective, optimiser: torch.optim.Optimizer) -> State:
    """Restore a checkpoint's tensors and return its state. Raises TrainingError if it is damaged."""
    remedy = "delete it and run the training command again: the job begins anew"
    state = to_record(load_training(path, objective.trained(), optimiser), State, f"{path}, {remedy}", TrainingError)
    try:
        for row in state.history:
            objective.on_epoch_end(row["validation_score"])
    except KeyError as error:
        raise TrainingError(f"{path}: its history has no {error}; {remedy}") from None
    return state


def _fit(
    objective: Objective, streams: Streams, settings: Settings, folder: Path, device: torch.device, title: str
) -> State:
    objective.to(device)
    groups = parameter_groups(objective.trained(), settings.learning_rate)
    optimiser = torch.optim.AdamW(
        groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=device.type == "cuda" or None
    )  # None: torch's default
    plateau = ReduceLROnPlateau(  # torch lowers the rate one epoch after its patience
        optimiser, factor=settings.plateau_factor, patience=settings.plateau_epochs - 1, threshold=0.0
    )
    state = State()
    if (folder / LATEST).is_file():
        state = _resumed(folder / LATEST, objective, optimiser)
        plateau.load_state_dict(state.plateau)
        logger.info("%s: going on after update %d", title, state.update)
    loop = _Loop(objective, streams, settings, folder, device, optimiser, plateau, state)
    with progress(title, counted=False) as advance, deferred_interrupts() as stop:
        loop.run(lambda note: advance(state.update, loop.total, note), stop)
    save_weights(folder / FINAL, objective.model)
    draw_curves(folder / "progress.png", state.history, title, objective.schedules, settings.epochs)
    return state


class _Loop:
    """One run: holds what the steps of the loop share."""

    def __init__(
        self,
        objective: Objective,
        streams: Streams,
        settings: Settings,
        folder: Path,
        device: torch.device,
        optimiser: torch.optim.Optimizer,
        plateau: ReduceLROnPlateau,
        state: State,
    ) -> None:
        self.objective, self.streams, self.settings, self.folder = objective, streams, settings, folder
        self.device, self.optimiser, self.plateau, self.state = device, optimiser, plateau, state
        self.parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        self.total = settings.epochs * settings.iterations_per_epoch
        self.low_precision = uses_bf16(settings.precision, device)
        self.sizes = batch_sizes(objective.batch_fractions, streams.batch_size)
        self.augmenters = {
            dataset: augmenter_of(settings, sampler.patch_size, streams.spacing_mm, streams.upright)
            for dataset, sampler in streams.training.items()
        }
        self.saved_at = self.counted_to = time.monotonic()

    def run(self, report: Callable[[str], None], stop: Callable[[], type[KeyboardInterrupt] | None]) -> None:
        """Run updates, epoch ends and checkpoints until done.

        On an interrupt it saves and raises that interrupt; it checks between updates only.
        """
        state, per_epoch = self.state, self.settings.iterations_per_epoch
        streams = {
            dataset: self.streams.training[dataset].batches(
                state.update,
                self.total,
                size,
                partial(self.augmenters[dataset].maps, stream=stream, size=size),
            )
            for stream, (dataset, size) in enumerate(self.sizes.items())
        }
        try:
            while state.update < self.total and not self._stopped_early():
                started = time.monotonic()
                terms = self._update({dataset: next(stream) for dataset, stream in streams.items()})
                for name, value in terms.items():
                    state.sums[name] = state.sums.get(name, 0.0) + value
                    state.sums["n " + name] = state.sums.get("n " + name, 0.0) + 1
                state.update += 1
                state.seconds += time.monotonic() - started
                report(progress_text(state, self.settings, terms.get("total")))
                if state.update % per_epoch == 0:
                    self._end_epoch()
                interrupt = stop()  # read once: a signal between two reads would end the run unsaved
                if interrupt or time.monotonic() - self.saved_at > self.settings.checkpoint_minutes * 60:
                    self.save()
                if interrupt:
                    raise interrupt
        finally:
            for stream in streams.values():
                stream.close()  # type: ignore[attr-defined]
        self.save()  # a kill during scoring then costs no training
        if interrupt := stop():
            raise interrupt

    def save(self) -> None:
        """Write the latest checkpoint."""
        state, now = self.state, time.monotonic()
        state.wall_seconds, self.counted_to = state.wall_seconds + now - self.counted_to, now
        state.learning_rates = [group["lr"] for group in self.optimiser.param_groups]
        state.plateau = self.plateau.state_dict()
        save_training(self.folder / LATEST, self.objective.trained(), self.optimiser, msgspec.to_builtins(state))
        self.saved_at = time.monotonic()

    def _update(self, batches: dict[str, Batch]) -> dict[str, float]:
        """Run one optimiser step and return the loss terms. A non-finite term skips the step; no terms are returned."""
        values = self._with_room(lambda: self._gradients(batches))
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip_norm).item()
        if not all(math.isfinite(value) for value in (*values.values(), norm)):
            self._skip(batches, {**values, "gradient norm": norm})
            return {}
        self.state.skipped_in_a_row = 0
        self.optimiser.step()
        return values

    def _skip(self, batches: dict[str, Batch], values: dict[str, float]) -> None:
        """Count an update that is not finite. Raises TrainingError above the limit."""
        state = self.state
        state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
        cases = "; ".join(f"{dataset}: {', '.join(batch.cases)}" for dataset, batch in batches.items())
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        where = f"{self.folder}: the loss is not finite at update {state.update}"
        found = f"{where} ({listed}). Cases of the batch: {cases}."
        if state.skipped_in_a_row > MOST_SKIPPED_IN_A_ROW or state.skipped > MOST_SKIPPED * self.total:
            raise TrainingError(f"{found} Look at these images for NaN or absurd values; if they are sound, lower --lr")
        logger.warning("%s Nothing is learned from it; %d such updates so far", found, state.skipped)

    def _gradients(self, batches: dict[str, Batch]) -> dict[str, float]:
        """Back-propagate the losses of an update, one micro-batch after the other; returns the loss terms."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.state.update)
        self.objective.trained().train()
        prepared = {
            dataset: self.augmenters[dataset].augment(batch, self.state.update, stream, self.device)
            for stream, (dataset, batch) in enumerate(batches.items())
        }
        self.optimiser.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        for share, part in _parts(prepared, self.state.parts):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                for terms in self.objective.losses(part, self.state.update / self.total):
                    (share * terms["total"]).backward()
                    for name, term in terms.items():
                        values[name] = values.get(name, 0.0) + share * term.item()
        return values

    def _with_room(self, attempt: Callable[[], Result]) -> Result:
        """Return the result of ``attempt``; on out-of-memory, halve the micro-batches and retry.

        A failed attempt may leave gradients but no other state. Re-raises torch's error if a micro-batch is one sample.
        """
        most = min(self.sizes.values())
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.state.parts >= most:
                    raise
            self.optimiser.zero_grad(set_to_none=True)  # only here: the error no longer holds references to its tensors
            torch.accelerator.empty_cache()
            self.state.parts = min(2 * self.state.parts, most)
            size = self.streams.batch_size
            logger.warning(
                "%s: out of memory with a batch of %d: now %d parts of %d, gradients accumulated; the result differs "
                "slightly from a whole batch",
                self.folder,
                size,
                self.state.parts,
                math.ceil(size / self.state.parts),
            )

    def _end_epoch(self) -> None:
        """Validate, apply the plateau rule, keep the best weights, write the log."""
        state = self.state
        started = time.monotonic()
        loss, score = self._with_room(self._validate)
        state.validation_seconds += time.monotonic() - started
        row = {"epoch": float(state.update // self.settings.iterations_per_epoch)}
        row |= {
            name: value / state.sums["n " + name] for name, value in state.sums.items() if not name.startswith("n ")
        }
        row |= {"validation_loss": loss, "validation_score": score}
        row["learning_rate"] = self.optimiser.param_groups[0]["lr"]
        by_score = self.settings.best_by == "score"
        self.plateau.step(-score if by_score and score > 0 else loss)  # as long as the score is 0, the loss decides
        if state.best_loss is None or (
            (score, -loss) > (state.best_score, -state.best_loss) if by_score else loss < state.best_loss
        ):
            state.best_loss, state.best_score, state.epochs_without_gain = loss, score, 0
            save_weights(self.folder / BEST, self.objective.model)
        else:
            state.epochs_without_gain += 1
        state.seconds += time.monotonic() - started
        row["seconds"] = state.seconds
        state.history.append(row)
        self.objective.on_epoch_end(score)
        state.sums = {}
        write_history(self.folder / "progress.csv", state.history)
        logger.debug("%s", row)

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        """Return mean task loss and score over the fixed validation batches."""
        torch.manual_seed(self.settings.seed)  # a detector's loss samples regions at random
        self.objective.trained().eval()
        losses: list[float] = []
        scores: list[float] = []
        for dataset in self.objective.validated_on():
            numerator, denominator = 0.0, 0.0
            sampler = self.streams.validation[dataset]
            for batch in sampler.batches(0, self.settings.validation_batches_used, self.streams.batch_size):
                losses.append(0.0)
                for share, part in _parts({dataset: batch.to(self.device)}, self.state.parts):
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                        loss, score = self.objective.validate(dataset, part[dataset])
                    losses[-1] += share * loss.item()
                    numerator, denominator = numerator + score.numerator.cpu(), denominator + score.denominator.cpu()  # type: ignore[assignment]
                if not math.isfinite(losses[-1]):
                    raise TrainingError(
                        f"{self.folder}: the validation loss is not finite at update {self.state.update}. Cases of the "
                        f"batch: {dataset}: {', '.join(batch.cases)}. Look at these images for NaN or absurd values; "
                        "if they are sound, lower --lr"
                    )
            scores.append(_ratio(Score(torch.as_tensor(numerator), torch.as_tensor(denominator))))
        return float(np.mean(losses)), float(np.mean(scores))

    def _stopped_early(self) -> bool:
        return self.state.epochs_without_gain >= self.settings.early_stopping_epochs


def progress_text(state: State, settings: Settings, loss: float | None) -> str:
    """Progress of a training: epoch 4/5, update 65/100, loss 0.946, 12 min left. ``loss`` is None if not finite.

    The time left assumes no early stop, at the mean cost of an update including its share of validation.
    """
    total, epoch = settings.epochs * settings.iterations_per_epoch, (state.update - 1) // settings.iterations_per_epoch
    left = duration((total - state.update) * state.seconds / state.update)
    shown = "not finite" if loss is None else f"{loss:.3f}"
    return f"epoch {epoch + 1}/{settings.epochs}, update {state.update}/{total}, loss {shown}, {left} left"


def batch_sizes(shares: dict[str, float], batch_size: int) -> dict[str, int]:
    """Samples per data set in an update, at least one each; the rounding remainder goes to the last.

    With 5 samples shared by a source and the target, the source gets 2 and the target 3.
    """
    sizes = {dataset: max(1, int(batch_size * share)) for dataset, share in shares.items()}
    left_over = round(batch_size * sum(shares.values())) - sum(sizes.values())
    sizes[list(shares)[-1]] += max(0, left_over)
    return sizes


def _parts(batches: dict[str, Batch], parts: int) -> Iterator[tuple[float, dict[str, Batch]]]:
    """Split the batches of all data sets into ``parts`` micro-batches, each with its fraction of the samples."""
    samples = sum(len(batch.images) for batch in batches.values())
    for number in range(parts):
        part = {}
        for dataset, batch in batches.items():
            start, stop = (len(batch.images) * edge // parts for edge in (number, number + 1))
            part[dataset] = batch.part(start, stop)
        yield sum(len(batch.images) for batch in part.values()) / samples, part


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _ratio(score: Score) -> float:
    """Mean over the classes that occur; 0 if no class occurs."""
    occurs = score.denominator > 0
    return (score.numerator[occurs] / score.denominator[occurs]).mean().item() if occurs.any() else 0.0


def find_device(wanted: str) -> torch.device:
    """Return the device of a setting. Raises SettingsError for a device this machine does not have."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device {wanted!r} cannot be used: {reason}. Use cpu or auto") from None
    return device


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to run the networks in bfloat16: on request, or automatically on a GPU that supports it."""
    return precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def validation_seed(seed: int) -> int:
    """The seed of the fixed validation batches."""
    return seed + _VALIDATION_SEED
