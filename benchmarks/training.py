"""What an update of each stage costs against a single teacher's, and what a student's prediction costs.

    python benchmarks/training.py [--size 256 256] [--batch 8] [--width 32] [--arch unet] [--device cpu]
    python benchmarks/training.py --task detection --arch faster_rcnn_small
    python benchmarks/training.py --task classification --arch medvit_small --size 224 224

An update is forward, losses, backward, gradient clipping and Adam's step of the product's own objectives, in float32 or
as ``--precision`` says; data lie in memory. All stages take turns, an update each a round, so that other work on the
machine slows all of them alike; a ratio is the median of the rounds' ratios, with the range of the middle half. On a
CPU these are of CPU seconds.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch
from measuring import machine, table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Task
from mdkd_auto.core.settings import Architecture, Settings
from mdkd_auto.inference.cpu import quicker_on_cpu
from mdkd_auto.networks.discriminator import Discriminator
from mdkd_auto.networks.model import Model
from mdkd_auto.planners.topology import pad_to_multiple, plan_topology, total_stride
from mdkd_auto.stages.source_teacher import SourceTeacherObjective
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes
from mdkd_auto.tasks.task_parts import TASK_PARTS, Given
from mdkd_auto.training.interfaces import Objective, Output, TrainingTask
from mdkd_auto.training.loop import find_device, uses_bf16

TARGET, SOURCE = "Dataset001_Target", "Dataset002_Source"
LIMITS = {"joint teacher, 2 sources": 2.0, "student, 2 sources": 1.8}  # x a single teacher
SMALL = 4  # the small student has this part of the width
PROGRESS = 0.5  # past the warm-up and the ramp of distillation
WARM_UP = 1  # rounds
OBJECTS, LARGEST_OBJECT = 3, 48  # an image, voxels a side
ANCHORS = ((8.0, 16.0, 32.0, 48.0), (0.5, 1.0, 2.0))
QUERIES = 20
USUAL: dict[Task, Architecture] = {
    "segmentation": "unet",
    "classification": "unet",
    "detection": "faster_rcnn_small",
}


class Setup(NamedTuple):
    """What is measured, and where."""

    task_name: Task
    plan: ConfigurationPlan
    batch: int
    architecture: Architecture
    width: int | None  # None: the network's own
    student_width: int | None
    device: torch.device
    bf16: bool

    @property
    def settings(self) -> Settings:
        return Settings().for_task(self.task_name)

    def task(self, width: int | None = None) -> TrainingTask:
        lesion = ClassChannel(name="lesion", values=(1,), written=1)
        classes = dict.fromkeys((TARGET, SOURCE), Classes(channels=(lesion,), regions=False, ignore=None))
        given = Given(self.plan, classes, self.settings, True, self.architecture, width or self.width, {})
        return TASK_PARTS[self.task_name].training(given)

    def batch_of(self, size: int) -> Batch:
        """Noise; for detection with ``OBJECTS`` boxes an image."""
        shape = self.plan.patch_size
        images = torch.randn(size, 1, *shape, device=self.device)
        labels = (images[:, 0] > 1).to(torch.int16)
        corners = torch.rand(size, OBJECTS, 2, device=self.device) * (shape[-1] - LARGEST_OBJECT)
        sides = 8 + torch.rand(size, OBJECTS, 2, device=self.device) * (LARGEST_OBJECT - 8)
        ones = torch.ones(size, OBJECTS, 1, device=self.device)
        return Batch(images, labels, ("case",) * size, boxes=(*torch.cat([corners, corners + sides, ones], dim=2),))


class Cost(NamedTuple):
    """Of one call."""

    cpu_s: float
    wall_s: float


# --- the stages -----------------------------------------------------------------------------------------------------


def objectives(setup: Setup, sources: Sequence[int]) -> dict[str, Objective]:
    """The product's own, with random weights."""
    task, student_task, settings = setup.task(), setup.task(setup.student_width), setup.settings
    discriminator = Discriminator(task.encoder().channels[-1])
    made: dict[str, Objective] = {
        "teacher": TeacherObjective(_model(task), task, TARGET),
        "source teacher": SourceTeacherObjective(
            _model(task, task.source_and_target_outputs(SOURCE, TARGET)[0]),
            discriminator,
            task,
            SOURCE,
            TARGET,
            settings,
        ),
    }
    for count in sources:
        name = f"{count} source{'s' if count > 1 else ''}"
        made[f"joint teacher, {name}"] = TeacherObjective(joint_teacher(task, count), task, TARGET)
        taught = StudentObjective(_model(student_task), joint_teacher(task, count), student_task, TARGET, settings)
        made[f"student, {name}"] = taught
    return made


def joint_teacher(task: TrainingTask, sources: int) -> Model:
    encoder = task.joint_encoder([task.encoder() for _ in range(1 + sources)], None)
    return Model(encoder, task.head(1, encoder))


def _model(task: TrainingTask, outputs: int = 1) -> Model:
    encoder = task.encoder()
    return Model(encoder, task.head(outputs, encoder))


def update(objective: Objective, setup: Setup) -> Callable[[], None]:
    """One update of a stage, to be called again and again."""
    objective.to(setup.device)
    objective.trained().train()
    parameters = [parameter for parameter in objective.trained().parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, fused=setup.device.type == "cuda" or None)  # as training has it
    batches = {name: setup.batch_of(round(setup.batch * share)) for name, share in objective.batch_fractions.items()}

    def call() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.bf16):
            for terms in objective.losses(batches, PROGRESS):
                terms["total"].backward()
        nn.utils.clip_grad_norm_(parameters, 12.0)
        optimiser.step()

    return call


# --- measuring ------------------------------------------------------------------------------------------------------


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, repeats: int, device: torch.device
) -> list[dict[str, Cost]]:
    """The cost of each call, a round an entry; odd rounds go backwards."""
    found = []
    for number in range(WARM_UP + rounds):
        names = list(calls) if number % 2 == 0 else list(calls)[::-1]
        found.append({name: timed(calls[name], repeats, device) for name in names})
        said = ", ".join(f"{name} {found[-1][name].wall_s:.3f}" for name in calls)
        print(f"round {number - WARM_UP + 1}: {said} s", file=sys.stderr, flush=True)
    return found[WARM_UP:]


def timed(call: Callable[[], object], repeats: int, device: torch.device) -> Cost:
    """Seconds of one of ``repeats`` calls."""
    _wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return Cost((time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats)


def ratios(rounds: Sequence[dict[str, Cost]], name: str, to: str, device: torch.device) -> list[float]:
    """One a round, in order of size; of CPU seconds, or of wall seconds on a GPU."""
    part = "cpu_s" if device.type == "cpu" else "wall_s"
    return sorted(getattr(costs[name], part) / getattr(costs[to], part) for costs in rounds)


def text_ratios(found: Sequence[float]) -> str:
    """The median, and the range of the middle half: 1.97 x (1.93 to 2.02)."""
    cut = len(found) // 4
    return f"{median(found):.2f} x ({found[cut]:.2f} to {found[-1 - cut]:.2f})"


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """Memory of tensors at most while ``call`` runs; on a CPU only those that it makes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    held = most = 0
    for event in seen.profiler.kineto_results.events():  # in order of time
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- reports --------------------------------------------------------------------------------------------------------


def training_table(setup: Setup, sources: Sequence[int], rounds: int, updates: int) -> str:
    """Seconds and peak memory of an update of each stage, with the ratio to a single teacher and its limit."""
    calls = {name: update(objective, setup) for name, objective in objectives(setup, sources).items()}
    found = in_turns(calls, rounds, updates, setup.device)
    rows = []
    for name, call in calls.items():
        times = ratios(found, name, "teacher", setup.device)
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"{limit:g} x, {'met' if median(times) <= limit else 'MISSED'}"
        cost = Cost(*(median(values) for values in zip(*(costs[name] for costs in found), strict=True)))
        rows.append(
            [
                name,
                f"{cost.cpu_s:.3f}",
                f"{cost.wall_s:.3f}",
                text_ratios(times),
                verdict,
                f"{peak_mib(call, setup.device):.0f}",
            ]
        )
    return table(["stage", "CPU s an update", "wall s", "to a teacher", "limit", "peak MiB"], rows)


def prediction_table(setup: Setup, rounds: int, repeats: int) -> str:
    """The same for the prediction of one patch: the baseline, its student, and a small student of networks with a
    width."""
    baseline, student = _model(setup.task()), taught(setup, setup.width)
    check_same_network(baseline, student, setup.batch_of(1).images)
    networks = {"baseline": baseline, "student": student}
    if setup.width is not None:
        width = max(4, setup.width // SMALL)
        networks[f"student, width {width}"] = taught(setup, width)
    image = setup.batch_of(1).images
    calls = {name: prediction(network, image, setup) for name, network in networks.items()}
    found = in_turns(calls, rounds, repeats, setup.device)
    peaks = {name: peak_mib(call, setup.device) for name, call in calls.items()}
    rows = []
    for name, network in networks.items():
        cost = Cost(*(median(values) for values in zip(*(costs[name] for costs in found), strict=True)))
        weights, all_weights = weights_of(network), weights_of(baseline)
        times = text_ratios(ratios(found, name, "baseline", setup.device))
        rows.append(
            [
                name,
                f"{weights:,}",
                f"{weights / all_weights:.3f} x",
                f"{1000 * cost.cpu_s:.1f}",
                f"{1000 * cost.wall_s:.1f}",
                times,
                f"{peaks[name]:.1f}",
                f"{peaks[name] / peaks['baseline']:.2f} x",
            ]
        )
    head = [
        "network",
        "weights",
        "to the baseline",
        "CPU ms a patch",
        "wall ms",
        "to the baseline",
        "peak MiB",
        "to the baseline",
    ]
    return table(head, rows)


def taught(setup: Setup, width: int | None) -> nn.Module:
    """A student's network as it is after training."""
    task = setup.task(width)
    return StudentObjective(_model(task), joint_teacher(setup.task(), 2), task, TARGET, setup.settings).model


def answer(output: Output) -> Tensor:
    """Logits, or the scores of what a detector finds."""
    return output if isinstance(output, Tensor) else torch.cat([found.scores for found in output.detected()])


def prediction(network: nn.Module, image: Tensor, setup: Setup) -> Callable[[], Tensor]:
    """A prediction as the product makes it."""
    network = network.to(setup.device).eval()
    if setup.device.type == "cpu" and not setup.bf16:
        network = quicker_on_cpu(network)

    def call() -> Tensor:
        with torch.inference_mode(), torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.bf16):
            return answer(network(image))

    return call


def check_same_network(baseline: nn.Module, student: nn.Module, image: Tensor) -> None:
    """Raise RuntimeError unless the two have the same layers and, with the same weights, the same output."""
    same = repr(baseline) == repr(student) and weights_of(baseline) == weights_of(student)
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    student.load_state_dict(baseline.state_dict())
    baseline, student = baseline.to(image.device).eval(), student.to(image.device).eval()
    with torch.inference_mode():
        same = same and torch.equal(answer(baseline(image)), answer(student(image)))
    student.load_state_dict(weights)
    if not same:
        raise RuntimeError("The student is another network than the baseline")


def weights_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- command --------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 256], help="of a patch, two or three numbers")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--task", choices=tuple(USUAL), default="segmentation")
    parser.add_argument("--width", type=int, help="default: 32 of a UNet, else the network's own")
    parser.add_argument("--arch", help="any network of the task")
    parser.add_argument("--student-width", type=int, help="of the student in training; default: --width")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--updates", type=int, default=1, help="of each stage in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("training", "prediction"))
    options = parser.parse_args()
    setup = setup_of(options)
    size = " x ".join(map(str, setup.plan.patch_size))
    precision = "bf16" if setup.bf16 else "fp32"
    device = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else str(setup.device)
    print(f"{machine()}; PyTorch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, {precision}")
    network = f"{setup.task_name}, {setup.architecture}, width {setup.width or 'its own'}"
    print(f"{network}, {size}, batch {options.batch}, {options.rounds} rounds\n")
    if options.only != "prediction":
        print(training_table(setup, options.sources, options.rounds, options.updates) + "\n", flush=True)
    if options.only != "training":
        print(prediction_table(setup, options.rounds, options.updates))
    return 0


def setup_of(options: argparse.Namespace) -> Setup:
    """As asked for; the network is the one that the planner makes for the patch."""
    spacing = (1.0,) * len(options.size)
    topology = plan_topology(options.size, spacing)
    plan = ConfigurationPlan(
        configuration="2d" if len(spacing) == 2 else "3d_fullres",
        datasets=(TARGET, SOURCE),
        spacing_mm=spacing,
        patch_size=pad_to_multiple(options.size, total_stride(topology)),
        batch_size=options.batch,
        topology=topology,
        reasons=(),
        whole_images=options.task != "segmentation",
        anchor_sizes=ANCHORS[0],
        anchor_ratios=ANCHORS[1],
        queries=QUERIES,
    )
    architecture = options.arch or USUAL[options.task]
    width = options.width or (32 if architecture == "unet" else None)
    device = find_device(options.device)
    torch.manual_seed(0)
    return Setup(
        options.task,
        plan,
        options.batch,
        architecture,
        width,
        options.student_width or width,
        device,
        uses_bf16(options.precision, device),
    )


if __name__ == "__main__":
    sys.exit(main())
