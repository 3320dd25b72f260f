"""Three tiny planned data sets, copies of a root to change, and commands called as from a shell."""

import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mdkd_auto import pipeline
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.demo.phantoms import LOOKS, Look, write_datasets
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.preparation import find_groups
from mdkd_auto.training import loop as fit

CASES = 4
Main = Callable[[list[str]], int]


class Said(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts() -> None:
    """Also where the tests run in the background of a shell, which has its jobs ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def looks() -> tuple[Look, ...]:
    """Volumes of 6 x 32 x 32 voxels; slices are thicker than pixels, each data set's a little more."""
    return tuple(
        look._replace(shape=(6, 32, 32), spacing_mm=(6.0 + number, 6.0, 6.0)) for number, look in enumerate(LOOKS)
    )


@pytest.fixture(scope="session")
def another_look(looks: tuple[Look, ...]) -> Look:
    """A fourth data set, to add."""
    return looks[0]._replace(name="Dataset904_Added")


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small are slower with several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def learn() -> Callable[[Callable[[], object], Callable[[], bool], int], None]:
    """Update until the bar is passed, within a budget several times what it usually takes.

    How many updates it takes depends on the processor: rounding differs between instruction sets and grows as training
    goes on. That something is learnt within the budget does not.
    """

    def until(update: Callable[[], object], learnt: Callable[[], bool], most: int, every: int = 10) -> None:
        for number in range(1, most + 1):
            update()
            if number % every == 0 and learnt():
                return
        pytest.fail(f"not learnt in {most} updates")

    return until


@pytest.fixture(scope="module")
def no_curves() -> Iterator[None]:
    """An empty progress.png: to draw it takes longer than so short a training."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "draw_curves", lambda path, *_: path.touch())
        yield


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory, looks: tuple[Look, ...]) -> Root:
    """Three data sets of four cases, planned and preprocessed; not to be changed: see ``copied``."""
    root = Root(tmp_path_factory.mktemp("planned"))
    write_datasets(root.raw, looks, cases=CASES)
    assert pipeline.plan_and_preprocess(root).problems == ()
    return root


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Root], Root]:
    """A copy of a root that a test may change."""

    def copy(root: Root) -> Root:
        return Root(Path(shutil.copytree(root.folder, tmp_path / "copy")))

    return copy


@pytest.fixture(scope="session")
def experiment_in() -> Callable[..., Experiment]:
    """The experiment of the CT group of a root."""

    def make(root: Root, settings: Settings | None = None, configuration: str = "2d") -> Experiment:
        groups, _ = find_groups(root)
        made = make_experiment(
            root, "CT_segmentation", groups["CT_segmentation"], settings or Settings(device="cpu"), configuration
        )
        assert made is not None
        return made

    return make


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call a command's main; the logging it sets up is taken down again."""

    def call(main: Main, *arguments: object) -> Said:
        logger = logging.getLogger()
        handlers, level = list(logger.handlers), logger.level
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        finally:
            logger.handlers[:] = handlers
            logger.setLevel(level)
        return Said(status, *capsys.readouterr())

    return call
