import csv
import itertools
import json
import logging
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mdkd_auto.batches import augmenter
from mdkd_auto.batches.sampling import Batch, PatchSampler
from mdkd_auto.core.errors import SettingsError, TrainingError
from mdkd_auto.core.records import CaseGeometry, ConfigurationPlan, PreprocessedCase, Topology
from mdkd_auto.core.settings import Settings, replace
from mdkd_auto.networks.discriminator import Discriminator
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.preprocessing.case_store import save_case
from mdkd_auto.preprocessing.lesions import sample_lesions
from mdkd_auto.stages.multi_head import MultiHeadObjective
from mdkd_auto.stages.source_teacher import SourceTeacherObjective
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes
from mdkd_auto.training import loop as fit_module
from mdkd_auto.training.checkpoints import load_training, load_weights, save_training, save_weights
from mdkd_auto.training.interfaces import Objective, Score, Terms
from mdkd_auto.training.interruption import Terminated
from mdkd_auto.training.loop import (
    BEST,
    FINAL,
    LATEST,
    State,
    Streams,
    _ratio,
    batch_sizes,
    find_device,
    fit,
    parameter_groups,
    progress_text,
    uses_bf16,
    validation_seed,
)

TARGET, SOURCE = "Dataset001_Target", "Dataset002_Source"
TOPOLOGY = Topology(features=(2, 4, 4), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)))
PLAN = ConfigurationPlan(
    configuration="2d",
    datasets=(TARGET, SOURCE),
    spacing_mm=(1.0, 1.0),
    patch_size=(16, 16),
    batch_size=3,
    topology=TOPOLOGY,
    reasons=(),
)
ONE_CLASS = Classes(channels=(ClassChannel(name="lesion", values=(1,), written=1),), regions=False, ignore=None)
SETTINGS = Settings(epochs=3, iterations_per_epoch=4, validation_batches=1, learning_rate=1e-3)
TASK = SegmentationTask(PLAN, {TARGET: ONE_CLASS, SOURCE: ONE_CLASS}, SETTINGS)
CPU = torch.device("cpu")
UPDATES = 12
KINDS = ("teacher", "source_teacher", "joint_teacher", "student", "multi_head")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture."""
    monkeypatch.setattr(fit_module, "draw_curves", lambda *_: None)


def write_cases(folder: Path, count: int = 4, bad: str = "") -> Path:
    for index in range(count):
        rng = np.random.default_rng(index)
        label = np.zeros((2, 24, 24), dtype=np.int8)
        y, x = rng.integers(3, 15, 2)
        label[rng.integers(2), y : y + 6, x : x + 6] = 1
        image = rng.normal(0, 0.5, label.shape) + 2 * label
        if f"case_{index}" == bad:
            image[:] = np.nan
        geometry = CaseGeometry(
            original_shape=(2, 24, 24),
            transpose=(0, 1, 2),
            crop=((0, 2), (0, 24), (0, 24)),
            spacing_mm=(1.0, 1.0, 1.0),
            resampled_shape=(2, 24, 24),
            resampled_spacing_mm=(1.0, 1.0, 1.0),
        )
        record = PreprocessedCase(
            case_id=f"case_{index}",
            key="",
            plan_key="",
            geometry=geometry,
            shape=(2, 24, 24),
            lesions=sample_lesions(label),
        )
        save_case(folder, record, image[None].astype(np.float32), label, flat=True)
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"))


def streams_of(folder: Path) -> Streams:
    def sampler(part: tuple[str, ...], seed: int) -> PatchSampler:
        return PatchSampler(folder, part, PLAN.patch_size, 0.33, seed)

    return Streams(
        training={TARGET: sampler(("case_0", "case_1"), 1), SOURCE: sampler(("case_1", "case_2"), 2)},
        validation=dict.fromkeys((TARGET, SOURCE), sampler(("case_3",), validation_seed(1))),
        batch_size=3,
        spacing_mm=PLAN.spacing_mm,
    )


def objective_of(kind: str, seed: int = 0) -> Any:
    """Fresh networks; frozen ones are the same whatever the seed, as if read from a file."""
    torch.manual_seed(99)
    teachers = [TASK.encoder(), TASK.encoder()]
    joint = Model(JointEncoder([TASK.encoder(), TASK.encoder()]), TASK.head(1))
    torch.manual_seed(seed)
    if kind == "joint_teacher":
        return TeacherObjective(Model(JointEncoder(teachers), TASK.head(1)), TASK, TARGET)
    if kind == "source_teacher":
        model = Model(TASK.encoder(), TASK.head(2))
        return SourceTeacherObjective(model, Discriminator(4), TASK, SOURCE, TARGET, SETTINGS)
    if kind == "multi_head":
        heads = {TARGET: TASK.head(1), SOURCE: TASK.head(1)}
        return MultiHeadObjective(MultiHeadModel(TASK.encoder(), heads), TASK, (TARGET, SOURCE))
    model = Model(TASK.encoder(), TASK.head(1))
    if kind == "student, turned down":
        settings = replace(SETTINGS, turn_down=True)
        return StudentObjective(model, joint, TASK, TARGET, settings, baseline_scores=(0.0, 1.0, 1.0))
    return (
        StudentObjective(model, joint, TASK, TARGET, SETTINGS)
        if kind == "student"
        else TeacherObjective(model, TASK, TARGET)
    )


def run(
    objective: Objective, cases: Path, folder: Path, settings: Settings = SETTINGS, batch_size: int = PLAN.batch_size
) -> State:
    return fit(objective, streams_of(cases)._replace(batch_size=batch_size), settings, folder, CPU, "test")


def at_call(objective: Any, method: str, call: int, happens: Callable[[], None]) -> Any:
    """The objective, to which something happens when ``method`` is called for the ``call``-th time."""
    original, calls = getattr(objective, method), [0]

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            happens()
        return original(*arguments)

    setattr(objective, method, counted)
    return objective


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def fill_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def kill() -> None:
    raise SystemError("no time to save anything")


def saved_update(folder: Path, kind: str) -> int:
    trained = objective_of(kind, seed=3).trained()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    update: int = load_training(folder / LATEST, trained, torch.optim.Adam(parameters))["update"]
    return update


def changed(**changes: Any) -> Settings:
    return replace(SETTINGS, **changes)


def without_times(state: State) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in state.history]


def assert_equal_runs(first: Path, second: Path, one: State, other: State) -> None:
    assert without_times(one) == without_times(other)
    assert (one.best_loss, one.best_score, one.update) == (other.best_loss, other.best_score, other.update)
    for name in (LATEST, BEST, FINAL):
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.fixture(scope="module")
def whole_runs(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, State]]:
    """Uninterrupted runs, one a kind."""
    done: dict[str, tuple[Path, State]] = {}

    def whole(kind: str) -> tuple[Path, State]:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            done[kind] = (folder, run(objective_of(kind), cases, folder))
        return done[kind]

    return whole


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "student, turned down"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    kind: str, cases: Path, tmp_path: Path, whole_runs: Callable[[str], tuple[Path, State]]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(at_call(objective_of(kind), "losses", 6, ctrl_c), cases, tmp_path)
    assert not (tmp_path / FINAL).exists()
    assert saved_update(tmp_path, kind) == 6
    fresh = objective_of(kind, seed=5)  # as a new process has it: other weights until the checkpoint is read
    state = run(fresh, cases, tmp_path)
    whole, expected = whole_runs(kind)
    assert state.update == UPDATES
    assert_equal_runs(tmp_path, whole, state, expected)


def test_each_epoch_logs_how_far_its_distillation_was_turned_down(
    whole_runs: Callable[[str], tuple[Path, State]],
) -> None:
    folder, state = whole_runs("student, turned down")
    student, factors = objective_of("student, turned down"), []
    for row in state.history:
        factors.append(student.turned_down)
        student.on_epoch_end(row["validation_score"])
    with open(folder / "progress.csv", encoding="utf-8", newline="") as file:
        assert [float(row["turned_down"]) for row in csv.DictReader(file)] == factors
    assert min(factors) < 1


@pytest.mark.parametrize(
    ("method", "calls", "happens"),
    [
        ("losses", (1, 1, 2, 8), ctrl_c),
        ("losses", (3,), terminate),
        ("validate", (1, 1), ctrl_c),
        ("validate", (3,), ctrl_c),
    ],
)
def test_interruptions_wherever_they_fall(
    method: str,
    calls: tuple[int, ...],
    happens: Callable[[], None],
    cases: Path,
    tmp_path: Path,
    whole_runs: Callable[[str], tuple[Path, State]],
) -> None:
    """At the first update, several times in a row, and while an epoch is validated, the last one too."""
    for seed, call in enumerate(calls):
        with pytest.raises(KeyboardInterrupt):
            run(at_call(objective_of("teacher", seed), method, call, happens), cases, tmp_path)
    state = run(objective_of("teacher", seed=9), cases, tmp_path)
    whole, expected = whole_runs("teacher")
    assert_equal_runs(tmp_path, whole, state, expected)


@pytest.mark.parametrize(("method", "call", "saved"), [("losses", 7, 6), ("losses", 5, 4), ("validate", 2, 7)])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    method: str,
    call: int,
    saved: int,
    cases: Path,
    tmp_path: Path,
    whole_runs: Callable[[str], tuple[Path, State]],
) -> None:
    """A checkpoint after every update, and an end that leaves no time to save another."""
    with pytest.raises(SystemError):
        run(at_call(objective_of("teacher"), method, call, kill), cases, tmp_path, changed(checkpoint_minutes=0.0))
    assert saved_update(tmp_path, "teacher") == saved
    state = run(objective_of("teacher", seed=4), cases, tmp_path)
    whole, expected = whole_runs("teacher")
    assert_equal_runs(tmp_path, whole, state, expected)


def test_augmentation_by_batchgenerators_goes_on_exactly(
    cases: Path, tmp_path: Path, whole_runs: Callable[[str], tuple[Path, State]]
) -> None:
    settings = changed(augmentation="batchgenerators", checkpoint_minutes=0.0)
    expected = run(objective_of("teacher"), cases, tmp_path / "whole", settings)
    with pytest.raises(SystemError):
        run(at_call(objective_of("teacher"), "losses", 7, kill), cases, tmp_path / "killed", settings)
    state = run(objective_of("teacher", seed=4), cases, tmp_path / "killed", settings)
    assert_equal_runs(tmp_path / "killed", tmp_path / "whole", state, expected)
    _, built_in = whole_runs("teacher")
    assert built_in.history[-1]["validation_loss"] != expected.history[-1]["validation_loss"]


@pytest.mark.parametrize(("happens", "kind"), [(ctrl_c, KeyboardInterrupt), (terminate, Terminated)])
def test_an_interruption_says_which(
    happens: Callable[[], None], kind: type[KeyboardInterrupt], cases: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        run(at_call(objective_of("teacher"), "losses", 2, happens), cases, tmp_path)
    assert caught.type is kind


def test_a_second_ctrl_c_ends_the_run_at_once(
    cases: Path, tmp_path: Path, whole_runs: Callable[[str], tuple[Path, State]]
) -> None:
    """What is half done is not saved."""

    def impatient() -> None:
        ctrl_c()
        ctrl_c()

    often = changed(checkpoint_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(at_call(objective_of("teacher"), "losses", 7, impatient), cases, tmp_path, often)
    assert saved_update(tmp_path, "teacher") == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    state = run(objective_of("teacher", seed=4), cases, tmp_path)
    whole, expected = whole_runs("teacher")
    assert_equal_runs(tmp_path, whole, state, expected)


def test_a_finished_run_is_not_trained_again(
    cases: Path, tmp_path: Path, whole_runs: Callable[[str], tuple[Path, State]]
) -> None:
    first = run(objective_of("teacher"), cases, tmp_path)
    second = run(at_call(objective_of("teacher", seed=1), "losses", 1, kill), cases, tmp_path)
    assert second.history == first.history
    whole, expected = whole_runs("teacher")
    assert_equal_runs(tmp_path, whole, second, expected)


def test_frozen_teachers_do_not_move(whole_runs: Callable[[str], tuple[Path, State]]) -> None:
    folder, _ = whole_runs("joint_teacher")
    before, after = objective_of("joint_teacher").model.state_dict(), load_file(folder / FINAL)
    frozen = [name for name in after if name.startswith("encoder.teachers.")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not all(torch.equal(before[name], after[name]) for name in after)


def test_training_learns(cases: Path, tmp_path: Path) -> None:
    """Within twelve epochs, of which about three suffice."""
    objective = objective_of("teacher")
    settings = Settings(epochs=12, iterations_per_epoch=25, validation_batches=2, learning_rate=1e-2, augment=False)

    def stop_when_learnt(score: float) -> None:
        if score > 0.7:
            raise KeyboardInterrupt

    objective.on_epoch_end = stop_when_learnt
    with pytest.raises(KeyboardInterrupt):
        run(objective, cases, tmp_path, settings)


# --- what an update is made of --------------------------------------------------------------------------------------


def seen_by_updates(cases: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> list[tuple[int, Any]]:
    """The seed of torch and the first data set's random numbers of augmentation, of each of twelve updates."""
    draws: list[Any] = []
    original = augmenter.apply

    def recorded(images: Any, labels: Any, drawn: Any, *rest: Any) -> Any:
        draws.append(drawn)
        return original(images, labels, drawn, *rest)

    objective, seeds = objective_of("teacher"), []
    losses = objective.losses

    def asked(*given: Any) -> Any:
        seeds.append(torch.initial_seed())
        return losses(*given)

    objective.losses = asked
    with monkeypatch.context() as patched:
        patched.setattr(augmenter, "apply", recorded)
        run(objective, cases, folder, changed(seed=seed))
    return list(zip(seeds, [(drawn.noise_seed, *drawn.turns.ravel()) for drawn in draws], strict=True))


def test_every_update_has_random_numbers_of_its_own(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of torch (dropout, a detector's regions) and those of augmentation; the same in every run of a seed."""
    first = seen_by_updates(cases, tmp_path / "first", monkeypatch, seed=1)
    assert [seed for seed, _ in first] == [1_000_003 + update for update in range(UPDATES)]  # of every version
    for numbers in zip(*first, strict=True):
        assert len(set(map(str, numbers))) == UPDATES
    assert str(seen_by_updates(cases, tmp_path / "again", monkeypatch, seed=1)) == str(first)
    other = seen_by_updates(cases, tmp_path / "other", monkeypatch, seed=2)
    for ours, theirs in zip(zip(*first, strict=True), zip(*other, strict=True), strict=True):
        assert set(map(str, ours)).isdisjoint(map(str, theirs))


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(16, (8, 8)), (5, (2, 3)), (7, (3, 4)), (3, (1, 2)), (2, (1, 1)), (1, (1, 1))]
)
def test_two_data_sets_share_the_whole_batch(batch_size: int, sizes: tuple[int, int]) -> None:
    """The target has the larger half; one sample of each is the least."""
    found = batch_sizes(objective_of("source_teacher").batch_fractions, batch_size)
    assert found == {SOURCE: sizes[0], TARGET: sizes[1]}
    assert batch_sizes(objective_of("teacher").batch_fractions, batch_size) == {TARGET: batch_size}
    assert batch_sizes(objective_of("multi_head").batch_fractions, batch_size) == {
        TARGET: batch_size,
        SOURCE: batch_size,
    }


@pytest.mark.parametrize(("small", "batch_size"), [(TARGET, 2), (SOURCE, 5)])
def test_a_small_data_set_beside_a_large_one(small: str, batch_size: int, tmp_path: Path) -> None:
    """2 training cases are half of every update's samples beside 60: none is exhausted, none preferred."""
    count, updates = 62, 120
    folder = write_cases(tmp_path / "cases", count)
    names = tuple(f"case_{index}" for index in range(count))
    large = SOURCE if small == TARGET else TARGET
    samplers = {
        dataset: PatchSampler(folder, part, PLAN.patch_size, 0.33, seed)
        for dataset, part, seed in ((small, names[:2], 1), (large, names[2:], 2))
    }
    objective, drawn = objective_of("source_teacher"), {small: Counter(), large: Counter()}
    losses = objective.losses

    def counted(batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        assert {name: len(batch.images) for name, batch in batches.items()} == batch_sizes(
            objective.batch_fractions, batch_size
        )
        for name, batch in batches.items():
            drawn[name].update(batch.cases)
        return losses(batches, progress)

    objective.losses = counted
    streams = Streams(samplers, samplers, batch_size, PLAN.spacing_mm)
    settings = changed(epochs=1, iterations_per_epoch=updates)
    state = fit(objective, streams, settings, tmp_path / "run", CPU, "test")
    assert state.update == updates
    assert math.isfinite(state.history[0]["total"])
    assert set(drawn[small]) == set(names[:2])
    assert min(drawn[small].values()) > 0.35 * drawn[small].total()
    assert set(drawn[large]) <= set(names[2:])
    assert len(drawn[large]) > 40
    assert max(drawn[large].values()) < 0.08 * drawn[large].total()


# --- stopping, learning rate, errors --------------------------------------------------------------------------------


def judged(losses: list[float]) -> Any:
    """A teacher with given validation losses, an epoch each."""
    objective = objective_of("teacher")
    original, given = objective.validate, iter(losses)
    objective.validate = lambda *arguments: (torch.tensor(next(given)), original(*arguments)[1])
    return objective


def test_early_stopping_keeps_the_best(cases: Path, tmp_path: Path) -> None:
    settings = changed(epochs=10, iterations_per_epoch=1, early_stopping_epochs=3)
    state = run(judged([0.9, 0.5, 0.6, 0.5, 0.7, 0.1]), cases, tmp_path, settings)
    assert len(state.history) == state.update == 5  # 0.5 again is no gain
    assert state.best_loss == 0.5
    assert state.best_score == state.history[1]["validation_score"]
    best, final = load_file(tmp_path / BEST), load_file(tmp_path / FINAL)
    assert not all(torch.equal(best[name], final[name]) for name in best)
    again = run(at_call(objective_of("teacher"), "losses", 1, kill), cases, tmp_path, settings)
    assert again.history == state.history


def test_a_detector_is_judged_by_its_score(cases: Path, tmp_path: Path) -> None:
    """Its loss may be lowest before it finds anything: best weights, early stop and plateau go by the score."""
    settings = changed(
        epochs=10,
        iterations_per_epoch=1,
        early_stopping_epochs=3,
        best_by="score",
        plateau_epochs=2,
        plateau_factor=0.5,
        learning_rate=1e-3,
    )
    objective, scores = judged([0.1, 0.5, 0.6, 0.7, 0.8, 0.9]), iter([0.0, 0.2, 0.4, 0.4, 0.3, 0.1])
    given = objective.validate
    objective.validate = lambda *arguments: (
        given(*arguments)[0],
        Score(torch.tensor([next(scores)]), torch.tensor([1.0])),
    )
    state = run(objective, cases, tmp_path, settings)
    assert len(state.history) == 6  # 0.4 again is no gain
    assert (state.best_loss, state.best_score) == (pytest.approx(0.6), pytest.approx(0.4))
    assert [row["learning_rate"] for row in state.history] == pytest.approx([1e-3] * 5 + [5e-4])


def test_a_detector_that_finds_nothing_yet_keeps_its_rate_while_its_loss_falls(cases: Path, tmp_path: Path) -> None:
    """Only with the loss at rest, too, or a score that rests, does the rate fall."""
    settings = changed(
        epochs=8, iterations_per_epoch=1, best_by="score", plateau_epochs=2, plateau_factor=0.5, learning_rate=1e-3
    )
    objective, scores = judged([0.9, 0.8, 0.7, 0.6, 0.9, 0.9, 0.9, 0.9]), iter([0.0] * 4 + [0.1, 0.1, 0.0, 0.0])
    given = objective.validate
    objective.validate = lambda *arguments: (
        given(*arguments)[0],
        Score(torch.tensor([next(scores)]), torch.tensor([1.0])),
    )
    rates = [row["learning_rate"] for row in run(objective, cases, tmp_path, settings).history]
    assert rates == pytest.approx([1e-3] * 7 + [5e-4])


def test_plateau_lowers_the_learning_rate(cases: Path, tmp_path: Path) -> None:
    """Two epochs without gain lower the rate; the rate of a row is that of its updates."""
    settings = changed(epochs=7, iterations_per_epoch=1, plateau_epochs=2, plateau_factor=0.5, learning_rate=1e-3)
    with pytest.raises(KeyboardInterrupt):  # the count goes on over an interruption
        run(at_call(judged([0.5] * 7), "losses", 4, ctrl_c), cases, tmp_path, settings)
    state = run(judged([0.5] * 7), cases, tmp_path, settings)
    rates = [row["learning_rate"] for row in state.history]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


def test_an_encoder_with_a_rate_of_its_own(cases: Path, tmp_path: Path) -> None:
    """It learns half as fast again, before and after the plateau and over an interruption. Frozen, it has none."""
    settings = changed(epochs=3, iterations_per_epoch=1, plateau_epochs=1, plateau_factor=0.5, learning_rate=1e-3)

    def objective() -> Any:
        made = judged([0.5] * 3)
        made.model.encoder.rate = 1.5
        return made

    whole, parted = objective(), objective()
    groups = parameter_groups(whole.trained(), 1e-3)
    assert [group["lr"] for group in groups] == [1e-3, 1.5e-3]
    assert set(groups[1]["params"]) == set(whole.model.encoder.parameters())
    assert set(groups[0]["params"]) == set(whole.model.head.parameters())
    run(whole, cases, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        run(at_call(parted, "losses", 2, ctrl_c), cases, tmp_path / "parted", settings)
    with safe_open(tmp_path / "parted" / LATEST, framework="np") as file:
        rates = json.loads(file.metadata()["training_state"])["learning_rates"]
    assert rates == pytest.approx([5e-4, 7.5e-4])
    run(objective(), cases, tmp_path / "parted", settings)
    one, other = (load_file(tmp_path / name / FINAL) for name in ("whole", "parted"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    whole.model.encoder.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(whole.trained(), 1e-3)] == [len(groups[0]["params"])]


def test_a_loss_that_is_not_finite_names_the_cases(tmp_path: Path) -> None:
    folder = write_cases(tmp_path / "cases", bad="case_1")
    objective = objective_of("teacher")
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    with pytest.raises(TrainingError, match=rf"not finite at update \d+ .*{TARGET}: .*case_1.*lower --lr"):
        run(objective, folder, tmp_path / "run")
    assert all(value.isfinite().all() for value in objective.model.state_dict().values())
    assert before.keys() == objective.model.state_dict().keys()


def not_finite_at(*updates: int) -> Any:
    """A teacher whose loss is not finite at these updates."""
    objective = objective_of("teacher")
    losses = objective.losses

    def some(batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        factor = float("nan") if round(progress * UPDATES) in updates else 1.0
        for terms in losses(batches, progress):
            yield {name: factor * value for name, value in terms.items()}

    objective.losses = some
    return objective


def test_few_updates_that_are_not_finite_are_skipped(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is learned from them, the log stays finite, and a resumed run ends as a whole one."""
    monkeypatch.setattr(fit_module, "MOST_SKIPPED", 0.25)  # of 12 updates
    whole = run(not_finite_at(0, 5, 9), cases, tmp_path / "whole")
    assert (whole.update, whole.skipped, whole.skipped_in_a_row) == (UPDATES, 3, 0)
    assert all(math.isfinite(value) for row in whole.history for value in row.values())
    assert [text for text in caplog.messages if "not finite" in text][-1].endswith("; 3 such updates so far")
    for stopped in (1, 6, 8):
        part = tmp_path / str(stopped)
        with pytest.raises(KeyboardInterrupt):
            run(at_call(not_finite_at(0, 5, 9), "losses", stopped, ctrl_c), cases, part)
        state = run(not_finite_at(0, 5, 9), cases, part)
        assert state.skipped == 3
        assert_equal_runs(part, tmp_path / "whole", state, whole)


@pytest.mark.parametrize(("share", "updates"), [(0.25, (0, 5, 9, 11)), (1.0, (2, 3, 4, 5, 6, 7))])
def test_many_updates_that_are_not_finite_end_a_run(
    share: float, updates: tuple[int, ...], cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than so many of all, or more than five in a row."""
    monkeypatch.setattr(fit_module, "MOST_SKIPPED", share)
    with pytest.raises(TrainingError, match=rf"not finite at update {updates[-1]} .*lower --lr"):
        run(not_finite_at(*updates), cases, tmp_path)


def test_a_validation_loss_that_is_not_finite_names_the_cases(tmp_path: Path) -> None:
    folder = write_cases(tmp_path / "cases", bad="case_3")
    with pytest.raises(TrainingError, match=rf"validation loss is not finite.*{TARGET}: case_3"):
        run(objective_of("teacher"), folder, tmp_path / "run")


def test_a_later_validation_batch_that_is_not_finite_ends_the_run_too(cases: Path, tmp_path: Path) -> None:
    objective, calls = objective_of("teacher"), []
    original = objective.validate

    def third_is_not(dataset: str, batch: Batch) -> Any:
        loss, score = original(dataset, batch)
        calls.append(batch)
        return (loss * math.nan if len(calls) == 3 else loss), score

    objective.validate = third_is_not
    with pytest.raises(TrainingError, match="the validation loss is not finite at update 24"):
        run(objective, cases, tmp_path, changed(iterations_per_epoch=24, validation_batches=6))
    assert len(calls) == 3


def test_validation_tracks_no_gradients(cases: Path, tmp_path: Path) -> None:
    objective, tracked = objective_of("teacher"), []
    original = objective.validate

    def watched(dataset: str, batch: Batch) -> Any:
        tracked.append(torch.is_grad_enabled())
        return original(dataset, batch)

    objective.validate = watched
    run(objective, cases, tmp_path)
    assert tracked == [False] * SETTINGS.epochs
    assert validation_seed(1) == 10_000_020  # of every version


def test_a_validation_score_by_hand() -> None:
    """The mean over the classes that occur: 1 / 4 and 6 / 8; the third has no denominator."""
    assert _ratio(Score(torch.tensor([1.0, 6.0, 0.0]), torch.tensor([4.0, 8.0, 0.0]))) == 0.5
    assert _ratio(Score(torch.zeros(2), torch.zeros(2))) == 0.0


def test_checkpoints_are_saved_at_the_interval_asked_for(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that advances by ten seconds whenever it is read; an update reads it a few times."""
    now, saved = [0.0], []

    def clock() -> float:
        now[0] += 10
        return now[0]

    monkeypatch.setattr(fit_module, "time", SimpleNamespace(monotonic=clock))
    original = fit_module.save_training
    monkeypatch.setattr(fit_module, "save_training", lambda *given: (saved.append(now[0]), original(*given)))
    run(objective_of("teacher"), cases, tmp_path, changed(checkpoint_minutes=2.0, iterations_per_epoch=12))
    between = np.diff(saved[:-1])  # the last is that of the end
    assert len(between) > 1
    assert all(120 < seconds < 240 for seconds in between)


@pytest.mark.parametrize(
    ("update", "seconds", "loss", "expected"),
    [
        (65, 1337.0, 0.9461, "epoch 4/5, update 65/100, loss 0.946, 12 min left"),  # 35 * 1337 / 65 = 720 s
        (60, 60.0, 2.0, "epoch 3/5, update 60/100, loss 2.000, 40 s left"),
        (1, 7200.0, None, "epoch 1/5, update 1/100, loss not finite, 8.2 days left"),
        (100, 10.0, 0.1, "epoch 5/5, update 100/100, loss 0.100, 0 s left"),
    ],
)
def test_progress_in_words(update: int, seconds: float, loss: float | None, expected: str) -> None:
    settings = Settings(epochs=5, iterations_per_epoch=20)
    assert progress_text(State(update=update, seconds=seconds), settings, loss) == expected


def test_seconds_add_up_over_an_interruption(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes a second, so that equal work takes equal time."""
    clock = itertools.count()
    monkeypatch.setattr(fit_module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    whole = run(objective_of("teacher"), cases, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(at_call(objective_of("teacher"), "losses", 9, ctrl_c), cases, tmp_path / "stopped")
    state = run(objective_of("teacher"), cases, tmp_path / "stopped")
    assert state.seconds == whole.seconds
    assert whole.wall_seconds <= state.wall_seconds <= whole.wall_seconds + 5  # one more look or two at its checkpoint


def test_half_precision_is_for_who_asks_for_it_on_a_cpu() -> None:
    assert [uses_bf16(precision, CPU) for precision in ("auto", "bf16", "fp32")] == [False, True, False]


# --- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_epoch", "wanted", "used"), [(250, 20, 20), (250, 100, 62), (24, 20, 6), (8, 20, 2), (3, 20, 1), (8, 1, 1)]
)
def test_validation_is_kept_short(per_epoch: int, wanted: int, used: int) -> None:
    settings = Settings(iterations_per_epoch=per_epoch, validation_batches=wanted)
    assert settings.validation_batches_used == used
    assert settings.validation_batches == wanted  # a part of every run's key
    assert Settings().validation_batches_used == Settings().validation_batches


def test_validation_takes_less_than_a_fifth(cases: Path, tmp_path: Path) -> None:
    objective, sizes = objective_of("teacher"), []
    original = objective.validate

    def counted(dataset: str, batch: Batch) -> Any:
        sizes.append(len(batch.images))
        return original(dataset, batch)

    objective.validate = counted
    state = run(objective, cases, tmp_path, changed(iterations_per_epoch=24, validation_batches=20))
    assert sizes == [3] * 6 * 3  # a quarter of the batches, and each without a backward pass
    assert 0 < state.validation_seconds < state.seconds


def test_a_device_that_is_none_is_refused() -> None:
    assert find_device("cpu") == CPU
    for name in ("CPU", "abacus", "cpu:x"):
        with pytest.raises(SettingsError, match=f"device '{name}' cannot be used"):
            find_device(name)


def test_seconds_are_those_that_passed(cases: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    state = run(objective_of("teacher"), cases, tmp_path)
    passed = time.monotonic() - started
    seconds = [row["seconds"] for row in state.history]
    assert 0 < state.validation_seconds < state.seconds <= passed
    assert 0 < seconds[0] < seconds[1] < seconds[2] <= passed


# --- memory ---------------------------------------------------------------------------------------------------------


def cramped(objective: Any, most: int, late: bool = True, since: float = 0.0) -> Any:
    """The objective on a device that holds ``most`` samples at a time, ``since`` a fraction of the updates.

    It finds out after their losses were back-propagated, or before (not ``late``).
    """
    at_a_time = sum if isinstance(objective, SourceTeacherObjective) else max
    losses, validate, begun = objective.losses, objective.validate, since == 0.0

    def limited(batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        nonlocal begun
        begun = progress >= since
        fits = not begun or at_a_time(len(batch.images) for batch in batches.values()) <= most
        if fits or late:
            yield from losses(batches, progress)
        if not fits:
            fill_memory()

    def limited_validate(dataset: str, batch: Batch) -> Any:
        return fill_memory() if begun and len(batch.images) > most else validate(dataset, batch)

    objective.losses, objective.validate = limited, limited_validate
    return objective


class MeanObjective:
    """A convolution whose loss is a mean over samples."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.batch_fractions = {TARGET: 1.0}
        self.model = torch.nn.Conv2d(1, 1, 3).double()

    def trained(self) -> torch.nn.Module:
        return self.model

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        yield {"total": self.model(batches[TARGET].images.double()).square().mean()}

    def on_epoch_end(self, score: float) -> None:
        del score

    def schedules(self, progress: float) -> dict[str, float]:
        return {}

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        loss = self.model(batch.images.double()).square().mean()
        return loss, Score(loss[None], torch.ones(1))

    def validated_on(self) -> tuple[str, ...]:
        return (TARGET,)

    def to(self, device: torch.device) -> None:
        self.model.to(device)


def test_parts_give_the_gradient_of_the_whole_batch(cases: Path, tmp_path: Path) -> None:
    """Also where they are not of one size: 7 = 3 + 4."""
    settings = changed(epochs=1, iterations_per_epoch=1)
    found = []
    for most, parts in ((7, 1), (4, 2), (2, 4), (1, 7)):
        objective = MeanObjective()
        state = run(cramped(objective, most), cases, tmp_path / str(most), settings, batch_size=7)
        assert state.parts == parts
        assert objective.model.weight.grad is not None
        found.append((objective.model.weight.grad, state.history[0]["total"], state.history[0]["validation_loss"]))
    for gradient, loss, validation_loss in found:
        torch.testing.assert_close(gradient, found[0][0], rtol=1e-10, atol=0)
        assert (loss, validation_loss) == pytest.approx(found[0][1:], rel=1e-6)


@pytest.mark.parametrize("since", [0.0, 0.4])  # from the first update on; when Adam has a state
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_try_leaves_no_trace(
    kind: str, since: float, cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A try that fails after back-propagation is as one that fails before; and a resumed run goes on in parts."""
    changing = {name for name, _ in objective_of(kind).trained().named_buffers()} - {"encoder.weights"}  # a constant
    assert not changing, "a failed try would change them"
    ends = []
    for late in (True, False):
        folder = tmp_path / str(late)
        ends.append((folder, run(cramped(objective_of(kind), 2, late, since), cases, folder, batch_size=4)))
    folder = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        run(at_call(cramped(objective_of(kind), 2, since=since), "losses", 12, ctrl_c), cases, folder, batch_size=4)
    assert 4 < saved_update(folder, kind) < UPDATES
    ends.append((folder, run(objective_of(kind, seed=5), cases, folder, batch_size=4)))  # with room, but in parts
    for folder, state in ends:
        assert state.parts == 2
        assert_equal_runs(folder, ends[0][0], state, ends[0][1])
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        f"{tmp_path / name}: out of memory with a batch of 4: now 2 parts of 2, gradients accumulated; the result "
        "differs slightly from a whole batch"
        for name in ("True", "False", "resumed")
    ]


def test_parts_change_a_result_slightly(cases: Path, tmp_path: Path, whole_runs: Callable[..., Any]) -> None:
    state = run(cramped(objective_of("teacher"), 1), cases, tmp_path)
    _, whole = whole_runs("teacher")
    assert state.parts == 3
    for ours, theirs in zip(without_times(state), without_times(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=0.02, abs=0.02)


def test_validation_that_does_not_fit(cases: Path, tmp_path: Path) -> None:
    objective = objective_of("teacher")
    validate = objective.validate
    objective.validate = lambda dataset, batch: fill_memory() if len(batch.images) > 1 else validate(dataset, batch)
    state = run(objective, cases, tmp_path, changed(epochs=1))
    whole = run(objective_of("teacher"), cases, tmp_path / "whole", changed(epochs=1))
    assert state.parts == 3
    assert state.best_loss == pytest.approx(whole.best_loss, rel=0.02)
    assert state.best_score == pytest.approx(whole.best_score)  # Dice is summed up before it is divided


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory.",
        "MPS backend out of memory (MPS allocated: 8.90 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_a_patch_that_does_not_fit(words: str, cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError(words)

    objective = objective_of("teacher")
    objective.losses = fail
    with pytest.raises(TrainingError, match=r"memory of cpu .* one patch at a time\..* lower --width, .*--memory-gb"):
        run(objective, cases, tmp_path)
    assert len([record for record in caplog.records if "gradients accumulated" in record.getMessage()]) == 2
    assert [record for record in caplog.records if "now 3 parts of 1, " in record.getMessage()]


def test_another_error_is_not_taken_for_lack_of_memory(cases: Path, tmp_path: Path) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    objective = objective_of("teacher")
    objective.losses = fail
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(objective, cases, tmp_path)


# --- checkpoints and the log ----------------------------------------------------------------------------------------


def test_checkpoints_are_plain_safetensors(whole_runs: Callable[[str], tuple[Path, State]]) -> None:
    folder, _ = whole_runs("student")
    with safe_open(folder / BEST, framework="np") as file:
        names = set(file.keys())
    assert names == set(objective_of("student").model.state_dict())  # projections are thrown away
    model = objective_of("student", seed=7).model
    load_weights(folder / FINAL, model)
    assert all(torch.equal(value, load_file(folder / FINAL)[name]) for name, value in model.state_dict().items())
    assert {path.name for path in folder.iterdir()} == {BEST, FINAL, LATEST, "progress.csv"}


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", TASK.head(1))
    with pytest.raises(TrainingError, match=r"seg_layers\.0\.(bias|weight): found \(1,.*expected \(2,"):
        load_weights(tmp_path / "a.safetensors", TASK.head(2))
    with pytest.raises(TrainingError, match="do not fit the network"):
        load_weights(tmp_path / "a.safetensors", TASK.encoder())


def test_training_state_that_does_not_fit(tmp_path: Path) -> None:
    one, two = TASK.head(1), TASK.head(2)
    save_training(tmp_path / "a.safetensors", one, torch.optim.Adam(one.parameters()), {"learning_rates": [1.0]})
    with pytest.raises(TrainingError, match=r"seg_layers\.0\.(bias|weight): found \(1,.*expected \(2,"):
        load_training(tmp_path / "a.safetensors", two, torch.optim.Adam(two.parameters()))


@pytest.mark.parametrize("keep", [0, 7, 200, -10])
def test_a_damaged_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, TASK.head(1))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match=r"a\.safetensors: unreadable weights.*run the training command again"):
        load_weights(path, TASK.head(1))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="missing"):
        load_weights(tmp_path / "none.safetensors", TASK.head(1))


@pytest.mark.parametrize(
    ("kind", "terms"),
    [
        ("teacher", {"total"}),
        ("source_teacher", {"total", "source", "domain", "target"}),
        ("student", {"total", "task", "feature", "similarity", "contrastive"}),
        ("multi_head", {"total", TARGET, SOURCE}),
    ],
)
def test_progress_has_a_column_a_term(
    kind: str, terms: set[str], whole_runs: Callable[[str], tuple[Path, State]]
) -> None:
    folder, state = whole_runs(kind)
    with (folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == terms | {"epoch", "validation_loss", "validation_score", "learning_rate", "seconds"}
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    for row, kept in zip(rows, state.history, strict=True):
        assert {name: float(value) for name, value in row.items()} == pytest.approx(kept, rel=1e-4)
        assert all(math.isfinite(float(value)) for value in row.values())
    if kind == "multi_head":
        assert state.history[0]["total"] == pytest.approx((state.history[0][TARGET] + state.history[0][SOURCE]) / 2)


def test_progress_is_drawn(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with its picture
    run(objective_of("student"), cases, tmp_path, changed(epochs=1))
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "progress.png").stat().st_size > 5000
