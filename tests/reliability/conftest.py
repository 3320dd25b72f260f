"""Child processes to kill, tiny networks to train in them, and writes that fail."""

import builtins
import errno
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import blosc2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from mdkd_auto.batches.sampling import PatchSampler
from mdkd_auto.core import files
from mdkd_auto.core.records import CaseGeometry, ConfigurationPlan, PreprocessedCase, Topology
from mdkd_auto.core.settings import Settings
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
from mdkd_auto.training.loop import Streams, fit, validation_seed

# --- children -------------------------------------------------------------------------------------------------------


class Child:
    """A forked process: it does its work and ends with status 0, or with 1 and a traceback."""

    def __init__(self, work: Callable[[], object]) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                files._remove_litter.cache_clear()  # as in a new process
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def wait(self) -> int:
        """Its exit status; the number of the signal that ended it, negative."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> bool:
        """Kill it; False where it had ended before."""
        os.kill(self.pid, signal.SIGKILL)  # not yet waited for: the number is still its own
        return self.wait() == -signal.SIGKILL


@pytest.fixture(scope="session")
def fork() -> Callable[[Callable[[], object]], Child]:
    """Start a child process."""
    if not hasattr(os, "fork"):
        pytest.skip("no os.fork here")
    return Child


# --- what is left on the disk ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def litter() -> Callable[[Path], list[Path]]:
    """Temporary files, whoever made them, anywhere below a folder."""
    return lambda folder: [path for path in folder.rglob(".tmp*") if path.is_file()]


@pytest.fixture(scope="session")
def open_all() -> Callable[[Path], int]:
    """Open every JSON, weights and array file below a folder and read it to its end; returns how many."""

    def check(folder: Path) -> int:
        count = 0
        for path in sorted(folder.rglob("*")):
            if path.name.startswith(".tmp"):
                continue
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    for name in list(file.keys()):
                        file.get_tensor(name)
            elif path.suffix == ".b2nd":
                blosc2.open(urlpath=str(path), mode="r")[:]
            elif path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as stored:
                    for name in stored.files:
                        assert stored[name] is not None
            else:
                continue
            count += 1
        return count

    return check


# --- writes that fail -----------------------------------------------------------------------------------------------


class Faults:
    """Counts what may fail while files are written below a folder; the ``failing``-th call finds the disk full."""

    def __init__(self, folder: Path, failing: int) -> None:
        self.folder, self.failing = str(folder), failing
        self.count = 0

    def call(self, original: Callable[..., Any], path: object, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        if self.count == self.failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path, *arguments, **named)

    def open(self, original: Callable[..., Any], path: object, mode: str = "r", *others: Any, **named: Any) -> Any:
        if isinstance(path, (str, Path)) and str(path).startswith(self.folder) and set(mode) & set("wax+"):
            return self.call(original, path, mode, *others, **named)
        return original(path, mode, *others, **named)


@pytest.fixture(scope="session")
def faults() -> Callable[..., AbstractContextManager[Faults]]:
    """Let one open-for-write, fsync or rename fail: the ``failing``-th, or none (0)."""

    @contextmanager
    def active(folder: Path, failing: int = 0) -> Iterator[Faults]:
        made = Faults(folder, failing)
        opened, fsync, replace = builtins.open, os.fsync, os.replace

        def open_(path: object, mode: str = "r", *others: Any, **named: Any) -> Any:
            return made.open(opened, path, mode, *others, **named)

        with (
            mock.patch.object(builtins, "open", open_),
            mock.patch.object(io, "open", open_),
            mock.patch.object(os, "fsync", lambda handle: made.call(fsync, handle)),
            mock.patch.object(os, "replace", lambda *names: made.call(replace, *names)),
        ):
            yield made

    return active


# --- tiny training runs ---------------------------------------------------------------------------------------------

TARGET, SOURCE = "Dataset001_Target", "Dataset002_Source"
PLAN = ConfigurationPlan(
    configuration="2d",
    datasets=(TARGET, SOURCE),
    spacing_mm=(1.0, 1.0),
    patch_size=(16, 16),
    batch_size=3,
    topology=Topology(features=(2, 4, 4), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2))),
    reasons=(),
)
LESION = Classes(channels=(ClassChannel(name="lesion", values=(1,), written=1),), regions=False, ignore=None)
SETTINGS = Settings(epochs=3, iterations_per_epoch=4, validation_batches=2, learning_rate=1e-3)
TASK = SegmentationTask(PLAN, {TARGET: LESION, SOURCE: LESION}, SETTINGS)


def write_case(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    label = np.zeros((2, 24, 24), dtype=np.int8)
    y, x = rng.integers(3, 15, 2)
    label[rng.integers(2), y : y + 6, x : x + 6] = 1
    image = rng.normal(0, 0.5, label.shape) + 2 * label
    geometry = CaseGeometry(
        original_shape=(2, 24, 24),
        transpose=(0, 1, 2),
        crop=((0, 2), (0, 24), (0, 24)),
        spacing_mm=(1.0, 1.0, 1.0),
        resampled_shape=(2, 24, 24),
        resampled_spacing_mm=(1.0, 1.0, 1.0),
    )
    record = PreprocessedCase(
        case_id=f"case_{number}",
        key="",
        plan_key="",
        geometry=geometry,
        shape=(2, 24, 24),
        lesions=sample_lesions(label),
    )
    save_case(folder, record, image[None].astype(np.float32), label, flat=True)


def objective_of(stage: str) -> Any:
    """Networks with the weights that every start of the same command draws."""
    torch.manual_seed(0)
    model = Model(TASK.encoder(), TASK.head(2 if stage == "source_teacher" else 1))
    joint = Model(JointEncoder([TASK.encoder(), TASK.encoder()]), TASK.head(1))
    if stage == "source_teacher":
        return SourceTeacherObjective(model, Discriminator(4), TASK, SOURCE, TARGET, SETTINGS)
    if stage == "joint_teacher":
        return TeacherObjective(joint, TASK, TARGET)
    if stage == "student":
        return StudentObjective(model, joint, TASK, TARGET, SETTINGS)
    if stage == "multi_head":
        heads: dict[str, nn.Module] = {TARGET: TASK.head(1), SOURCE: TASK.head(1)}
        return MultiHeadObjective(MultiHeadModel(TASK.encoder(), heads), TASK, (TARGET, SOURCE))
    return TeacherObjective(model, TASK, TARGET)


Change = Callable[[Any], None]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[..., None]:
    """Train a stage in a folder, 12 updates, or go on there; ``change`` may do something to its objective first."""
    cases = tmp_path_factory.mktemp("cases")
    for number in range(4):
        write_case(cases, number)

    def sampler(part: tuple[str, ...], seed: int) -> PatchSampler:
        return PatchSampler(cases, part, PLAN.patch_size, 0.33, seed)

    def run(stage: str, folder: Path, checkpoint_minutes: float = 0.0, change: Change = lambda objective: None) -> None:
        objective = objective_of(stage)
        change(objective)
        streams = Streams(
            training={TARGET: sampler(("case_0", "case_1"), 1), SOURCE: sampler(("case_1", "case_2"), 2)},
            validation=dict.fromkeys((TARGET, SOURCE), sampler(("case_3",), validation_seed(1))),
            batch_size=3,
            spacing_mm=PLAN.spacing_mm,
        )
        settings = Settings(
            epochs=3,
            iterations_per_epoch=4,
            validation_batches=2,
            learning_rate=1e-3,
            checkpoint_minutes=checkpoint_minutes,
        )
        with mock.patch.object(fit_module, "draw_curves"):
            fit(objective, streams, settings, folder, torch.device("cpu"), stage)

    run("source_teacher", tmp_path_factory.mktemp("trial"))  # what is imported by it, no child imports again
    return run
