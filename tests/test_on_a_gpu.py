"""Every task on a GPU, where there is one: the chain, resume, real lack of memory, and what a CPU computes."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdkd_auto import pipeline
from mdkd_auto.batches.augmentation import apply, draw
from mdkd_auto.cli import predict
from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import ClassificationSettings, DetectionSettings, Settings, replace
from mdkd_auto.demo.phantoms import PICTURES, SCENES, write_detection_datasets, write_pictures
from mdkd_auto.execution.run_folder import describe
from mdkd_auto.execution.run_job import make_objective, make_streams, run_jobs
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.stages.hierarchy import in_order
from mdkd_auto.stages.job import Job
from mdkd_auto.training import loop as fitting
from mdkd_auto.training.loop import BEST, FINAL

DEVICE = "cuda"
SETTINGS = Settings(
    epochs=2,
    iterations_per_epoch=3,
    validation_batches=1,
    width=4,
    batch_size=4,
    device=DEVICE,
    reliability=False,
    classification=ClassificationSettings(architecture="unet", joint_channels=16),
    detection=DetectionSettings(architecture="faster_rcnn_small"),
)
BATCH = 32  # so many that each transform occurs
VOLUMES = "Dataset901_RoundBright"
TARGETS = {"CT_segmentation": VOLUMES, "CXR_classification": PICTURES[0].name, "CT_detection": SCENES[0].name}
CHAINS = [
    ("CT_segmentation", "2d", {}),
    ("CT_segmentation", "3d_fullres", {}),
    ("CT_segmentation", "2d", {"teacher_architecture": "tresunet", "student_architecture": "unet"}),
    ("CXR_classification", "2d", {}),
    ("CXR_classification", "2d", {"teacher_architecture": "medvit_small", "width": None}),
    ("CT_detection", "2d", {"width": None}),
    ("CT_detection", "2d", {"teacher_architecture": "rfdetr_tiny", "width": None}),
]
Chain = tuple[str, str, dict[str, Any]]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def root(planned: Root, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """All three tasks, planned; trainings are added to it, none is changed."""
    made = Root(Path(shutil.copytree(planned.folder, tmp_path_factory.mktemp("gpu") / "root")))
    write_pictures(made.raw, cases=52)
    write_detection_datasets(made.raw, SCENES[:2], cases=20)
    assert pipeline.plan_and_preprocess(made, request=PlanRequest(input_size=64)).problems == ()
    return made


def experiment(root: Root, chain: Chain) -> Experiment:
    group, configuration, changes = chain
    datasets, _ = find_groups(root)
    made = make_experiment(root, group, datasets[group], replace(SETTINGS, **changes), configuration)
    assert made is not None
    return made


def jobs_of(made: Experiment, target: str) -> list[Job]:
    sources = tuple(sorted(set(made.datasets) - {target}))
    return in_order(JobMaker(made).permutation(target, sources))


def job_of(made: Experiment, target: str, stage: str) -> Job:
    return next(job for job in jobs_of(made, target) if job.stage == stage)


def run(root: Root, chain: Chain, stage: str = "student") -> Path:
    """The folder of one stage of a chain, which is trained first where it is not."""
    made, target = experiment(root, chain), TARGETS[chain[0]]
    run_jobs([(made, job) for job in jobs_of(made, target)])
    return root.results / job_of(made, target, stage).folder


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_whole_chain(root: Root, chain: Chain) -> None:
    folder = run(root, chain)
    assert (folder / "finished.json").is_file()
    assert read_json(folder / "checks.json")["check"] == "distillation"
    assert read_json(folder / "test" / "summary.json")


def test_a_cpu_predicts_the_same(root: Root, command: Callable[..., Any], tmp_path: Path) -> None:
    """Without the head's bias, so that foreground is found by a network that was hardly trained."""
    folder = Path(shutil.copytree(run(root, CHAINS[0]), tmp_path / "run"))
    weights = load_file(folder / BEST)
    (bias,) = (name for name in weights if name.startswith("head") and name.endswith("seg_layers.0.bias"))
    save_file({**weights, bias: torch.zeros_like(weights[bias])}, folder / BEST)
    for device in (DEVICE, "cpu"):
        said = command(
            predict.main,
            "-i",
            root.raw / VOLUMES / "imagesTr",
            "-o",
            tmp_path / device,
            "-m",
            folder,
            "--device",
            device,
        )
        assert said.status == 0, said.err
    masks = sorted(path.name for path in (tmp_path / "cpu").glob("*.nii.gz"))
    assert masks
    for name in masks:
        ours, theirs = (np.asarray(nib.load(tmp_path / device / name).dataobj) > 0 for device in (DEVICE, "cpu"))
        assert 0.05 < theirs.mean() < 0.95
        assert (ours == theirs).mean() > 0.97  # bf16 there, float32 here


@pytest.mark.parametrize("stage", ["source_teacher", "joint_teacher", "student"])
@pytest.mark.parametrize("chain", [CHAINS[index] for index in (0, 1, 3, 5)], ids=str)
def test_a_cpu_computes_the_same_losses(root: Root, chain: Chain, stage: str) -> None:
    """And the same gradient, of one batch in float32; what a network draws is drawn on the CPU for both."""
    run(root, chain)
    made = experiment(root, chain)
    record = describe(made, job_of(made, TARGETS[chain[0]], stage))
    found: list[tuple[dict[str, float], float]] = []
    for name in ("cpu", DEVICE):
        device = torch.device(name)
        torch.manual_seed(0)
        objective, streams = make_objective(made, record), make_streams(made, record)
        objective.to(device)
        objective.trained().eval()
        batches = {dataset: streams.training[dataset].batch(0, 4).to(device) for dataset in objective.batch_fractions}
        values = {}
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for terms in objective.losses(batches, 0.5):
                terms["total"].backward()
                values.update({term: value.item() for term, value in terms.items()})
        gradients = [weight.grad for weight in objective.trained().parameters() if weight.grad is not None]
        found.append((values, torch.stack([gradient.norm().cpu() for gradient in gradients]).norm().item()))
    (on_cpu, norm_on_cpu), (on_gpu, norm_on_gpu) = found
    assert on_gpu == pytest.approx(on_cpu, rel=0.01, abs=2e-5)  # contrastive: 6e-5
    assert norm_on_gpu == pytest.approx(norm_on_cpu, rel=0.02)


def test_it_goes_on_where_it_was_stopped(
    root: Root, copied: Callable[[Root], Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights end where those of an unbroken run do; a lost moment of Adam's would move them by the rate."""
    chain: Chain = ("CT_segmentation", "2d", {"seed": 3, "precision": "fp32"})
    whole = copied(root)
    made = experiment(whole, chain)
    unbroken = JobMaker(made).specific(VOLUMES)
    run_jobs([(made, unbroken)])
    made = experiment(root, chain)
    job = JobMaker(made).specific(VOLUMES)
    original, calls = fitting._Loop._update, []

    def stops(loop: fitting._Loop, *given: Any) -> Any:
        calls.append(loop.state.update)
        if len(calls) == 5:
            loop.save()
            raise KeyboardInterrupt
        return original(loop, *given)

    monkeypatch.setattr(fitting._Loop, "_update", stops)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([(made, job)])
    run_jobs([(made, job)])
    assert calls == [0, 1, 2, 3, 4, 4, 5]
    ours, theirs = load_file(root.results / job.folder / FINAL), load_file(whole.results / unbroken.folder / FINAL)
    for name in ours:
        if ours[name].ndim > 1:  # of a bias before a normalisation the gradient is rounding
            assert (ours[name] - theirs[name]).abs().mean() < 0.1 * made.settings.learning_rate, name


@pytest.mark.parametrize("size", [(32, 40), (8, 24, 32)])
def test_images_are_augmented_alike(size: tuple[int, ...]) -> None:
    """But for noise, which each device draws for itself."""
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.normal(size=(BATCH, 1, *size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, (BATCH, *size)).astype(np.int16))
    drawn = draw(np.random.default_rng(2), BATCH, len(size))._replace(noise_std=np.full(BATCH, np.nan))
    spacing_mm = (1.0,) * len(size)
    ours, our_labels = apply(images.to(DEVICE), labels.to(DEVICE), drawn, spacing_mm)
    theirs, their_labels = apply(images, labels, drawn, spacing_mm)
    assert ours.device.type == our_labels.device.type == DEVICE
    assert (our_labels.cpu() == their_labels).float().mean() > 0.99
    torch.testing.assert_close(ours.cpu(), theirs, atol=1e-3, rtol=1e-3)


def test_a_gpu_that_is_full(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    """Held to less than a batch takes, but more than an eighth of it, the same training goes on in parts."""

    def peak(batch_size: int, seed: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        made = experiment(root, ("CT_segmentation", "2d", {**few_weights, "batch_size": batch_size, "seed": seed}))
        run_jobs([(made, JobMaker(made).specific(VOLUMES))])
        return torch.cuda.max_memory_allocated()

    few_weights = {"width": 16, "epochs": 1}
    enough, too_little = peak(256, 1), peak(32, 2)
    assert too_little < 0.5 * enough
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((enough + too_little) / 2 / total)
    try:
        with caplog.at_level(logging.WARNING):
            peak(256, 3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with a batch of 256: now" in caplog.text
