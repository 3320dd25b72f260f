"""Attention maps: where the models of a target look, and to which teacher the joint teacher listens.

Eq. (19): A = sum_c F_c^2, divided by its L2 norm (20). A says where a level's features are strong, not why. Each map
comes with one number: the mean of A in the lesion against its mean in the image; 1 is no preference.
"""

import math
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from torch import Tensor

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.execution.run_folder import read_run
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.layers import resized_linearly
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.models import batch_of_one, column_model
from mdkd_auto.report.patches import Patch, lesion_patch, read_stored, row_step
from mdkd_auto.report.segmentation.overlays import TRUTH_COLOUR, median_case, outline, show_image

MODELS = ("data-set-specific", "joint teacher", "student")
SHALLOWER = 2  # levels above the bottleneck
MOST_TEACHER_MAPS = 5  # drawn; the bars have all
SHARE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
SMALLEST = 1e-12  # a map of zeros stays one
CHANCE_MARGIN = 0.05  # a share within it of 1 / teachers is no more than an untrained attention gives

Values = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)


class View(NamedTuple):
    """The slice of a patch on which maps are shown."""

    patch: Patch
    plane: int  # of a volume
    upright: int  # -1 where the last row is anterior

    def shown(self, values: NDArray[Number]) -> NDArray[Number]:
        """The slice (y, x) of values as large as the patch, top row first, without what lies outside the image."""
        flat, counted = values, self.patch.counted
        if values.ndim == 3:
            flat, counted = values[self.plane], counted[self.plane]
        inside = np.ix_(counted.any(1), counted.any(0)) if counted.any() else np.ix_(*map(np.arange, flat.shape))
        return flat[inside][:: self.upright]


class Listening(NamedTuple):
    """To whom the joint teacher listens: each teacher's share of the cross-attention."""

    teachers: tuple[str, ...]  # three digits of their data sets, the target's first
    level: int  # the deepest fused one
    maps: Tensor  # of that level, (teachers, *S)
    by_level: dict[int, list[float]]  # mean over voxels, one a teacher

    @property
    def chance(self) -> float:
        """The share of each teacher where the attention tells none from the others."""
        return 1 / len(self.teachers)

    def is_chance(self, level: int) -> bool:
        """Whether no teacher's share of a level is more than chance, or less."""
        return all(abs(share - self.chance) < CHANCE_MARGIN for share in self.by_level[level])

    @property
    def verdict(self) -> str:
        """At which levels the shares are more than chance, in words."""
        words = f"chance ({100 * self.chance:.0f} % each)"
        beyond = [str(level + 1) for level in self.by_level if not self.is_chance(level)]
        if not beyond:
            return f"no more than {words} at any level"
        if len(beyond) == len(self.by_level):
            return f"not {words} at any level"
        return f"not {words} at level{'s' if len(beyond) > 1 else ''} {', '.join(beyond)} alone"


def attention_map(features: Tensor) -> Tensor:
    """Eq. (19), (20): the sum over channels of squares, divided by its L2 norm; (B, C, *S) -> (B, *S)."""
    energy = features.float().square().sum(1)
    norm = energy.flatten(1).norm(dim=1).clamp_min(SMALLEST)
    return energy / norm.reshape(-1, *(1,) * (energy.ndim - 1))


def preference(attention: Tensor, patch: Patch) -> float | None:
    """The mean of an attention map (*S_map) in the truth against its mean in the image; None without either.

    The map is enlarged to the patch's size first. What lies outside the image does not count.
    """
    values, truth = enlarged(attention, patch.truth.shape), patch.truth & patch.counted
    mean = float(values[patch.counted].mean()) if patch.counted.any() else 0.0
    return float(values[truth].mean()) / mean if truth.any() and mean > 0 else None


def enlarged(values: Tensor, size: tuple[int, ...]) -> Values:
    """A map at the size of the patch, linearly."""
    made = resized_linearly(values.float().cpu()[None, None], size)
    result: Values = made[0, 0].numpy()
    return result


def draw_attention(path: Path, experiment: Experiment, row: Row) -> dict[str, object]:
    """Attention maps of the target's median case, and shares of the teachers; returns the numbers.

    Raises MdkdError where no case is scored, or a run or stored case is gone.
    """
    name = median_case(row.masks("student")) if "student" in row.summaries else None
    if name is None:
        raise MdkdError(f"{row.target}: no {row.part} case has a DSC")
    case = read_stored(experiment, row.target, name)
    patch, plane = lesion_patch(case, experiment.plan.configuration(experiment.configuration).patch_size)
    maps, listening = _look(experiment, row, patch)
    step = row_step(experiment.datasets[row.target], name)
    _draw(path, row, View(patch, plane, step), maps, listening)
    numbers: dict[str, object] = {"case": name}
    numbers["lesion_against_mean_by_level"] = {
        column: [preference(level, patch) for level in levels] for column, levels in maps.items()
    }
    if listening is not None:
        numbers["teacher_shares"] = [
            {"level": level + 1, **dict(zip(listening.teachers, shares, strict=True))}
            for level, shares in listening.by_level.items()
        ]
        numbers["teacher_shares_by_chance"] = listening.chance
        by_chance = [level + 1 for level in listening.by_level if listening.is_chance(level)]
        numbers["levels_no_more_than_chance"] = by_chance
    return numbers


@torch.no_grad()
def _look(experiment: Experiment, row: Row, patch: Patch) -> tuple[dict[str, list[Tensor]], Listening | None]:
    """Each model's attention maps of a patch, one a level, and the joint teacher's listening."""
    maps: dict[str, list[Tensor]] = {}
    listening = None
    for column in (column for column in MODELS if column in row.folders):
        model = column_model(experiment, row, column)
        batch = batch_of_one(torch.from_numpy(patch.image), model)
        maps[column] = [attention_map(features)[0] for features in model.features(batch)]
        if isinstance(model.encoder, JointEncoder) and len(model.encoder.teachers) > 1:
            run = read_run(experiment.root.results / row.folders[column][0])
            listening = listening_of(model.encoder.attention_shares(batch), run.job.datasets)
    return maps, listening


def listening_of(shares: dict[int, Tensor], datasets: tuple[str, ...]) -> Listening | None:
    """From the shares of each level with a cross-attention, (1, teachers, *S); None where no level has one."""
    if not shares:
        return None
    teachers = tuple(dataset[7:10] for dataset in datasets)
    level = max(shares)
    by_level = {number: one[0].flatten(1).mean(1).tolist() for number, one in sorted(shares.items())}
    return Listening(teachers, level, shares[level][0], by_level)


# --- the picture ----------------------------------------------------------------------------------------------------


def _draw(path: Path, row: Row, view: View, maps: dict[str, list[Tensor]], listening: Listening | None) -> None:
    columns = len(maps) + 1
    figure = Figure(figsize=(2.9 * columns, 6.9 if listening is None else 10.6), layout="constrained")
    heights = [2.0] if listening is None else [2.0, 1.0]
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_levels(parts[0], view, maps)
    if listening is not None:
        _draw_listening(parts[1], view, listening)
    figure.suptitle(f"{row.target}: attention of the median {row.part} case, {view.patch.case_id}", fontsize=11)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def _draw_levels(figure: SubFigure, view: View, maps: dict[str, list[Tensor]]) -> None:
    """A line for the bottlenecks and one for a shallower level, a panel a model, with one colour scale a line."""
    panels = figure.subplots(2, len(maps) + 1, squeeze=False)
    size = view.patch.image.shape
    for number, (line, chosen) in enumerate(zip(panels, shown_levels(maps), strict=True)):
        slices = {name: view.shown(enlarged(maps[name][level], size)) for name, level in chosen.items()}
        highest = max(float(np.percentile(values, 99.5)) for values in slices.values())
        show_image(line[0], view.shown(view.patch.image))
        line[0].set_title("image and truth" if number else "image", fontsize=9)
        if number:
            outline(line[0], view.shown(view.patch.truth), TRUTH_COLOUR, 1.5)
        for axes, (column, values) in zip(line[1:], slices.items(), strict=True):
            level, depth = chosen[column], len(maps[column])
            word = "bottleneck" if level == depth - 1 else f"level {level + 1} of {depth}"
            ratio = preference(maps[column][level], view.patch)
            said = f"in the lesion {ratio:.1f} x the mean" if ratio is not None else "no lesion"
            axes.set_title(f"{column}, {word}\n{said}", fontsize=9)
            _draw_map(axes, view, values, highest)


def shown_levels(maps: dict[str, list[Tensor]]) -> tuple[dict[str, int], dict[str, int]]:
    """Each model's level of the two lines: its own bottleneck, and a shallower one of like stride in all.

    The first model says which: two levels above its bottleneck. Networks of several kinds differ in depth.
    """
    first = next(iter(maps.values()))
    size = first[max(0, len(first) - 1 - SHALLOWER)].numel()
    bottlenecks = {column: len(levels) - 1 for column, levels in maps.items()}
    shallower = {
        column: min(range(len(levels)), key=lambda level: abs(math.log(levels[level].numel() / size)))
        for column, levels in maps.items()
    }
    return bottlenecks, shallower


def _draw_listening(figure: SubFigure, view: View, listening: Listening) -> None:
    """For each teacher where the joint teacher listens to it, then the shares of all levels as bars."""
    drawn = min(len(listening.teachers), MOST_TEACHER_MAPS)
    *panels, bars = figure.subplots(1, drawn + 1, squeeze=False, width_ratios=[1.0] * drawn + [1.3])[0]
    slices = [view.shown(enlarged(values, view.patch.image.shape)) for values in listening.maps[:drawn]]
    for number, (axes, values) in enumerate(zip(panels, slices, strict=True)):
        name = f"{listening.teachers[number]}{', its own' if number == 0 else ''}"
        share = 100 * listening.by_level[listening.level][number]
        said = f"{share:.0f} % at level {listening.level + 1}, chance {100 * listening.chance:.0f} %"
        axes.set_title(f"listens to {name}\n{said}", fontsize=9)
        _draw_map(axes, view, values, highest=1.0)
    levels = list(listening.by_level)
    below = np.zeros(len(levels))
    for number, name in enumerate(listening.teachers):
        shares = np.array([listening.by_level[level][number] for level in levels])
        bars.bar(
            levels,
            shares,
            bottom=below,
            label=name,
            edgecolor="white",
            color=SHARE_COLOURS[number % len(SHARE_COLOURS)],
        )
        below += shares
    bars.set_xticks(levels, [str(level + 1) for level in levels])
    for edge in range(1, len(listening.teachers)):
        bars.axhline(edge * listening.chance, color="black", linestyle=":", linewidth=1)
    bars.set_title(f"cross-attention, share of each teacher:\n{listening.verdict}", fontsize=9)
    bars.set_xlabel("level, the bottleneck last", fontsize=8)
    bars.tick_params(labelsize=8)
    bars.set_ylim(0, 1)
    bars.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_map(axes: Axes, view: View, values: Values, highest: float) -> None:
    """A map in colours over the grey image."""
    show_image(axes, view.shown(view.patch.image))
    axes.imshow(values, cmap="inferno", vmin=0, vmax=max(highest, SMALLEST), alpha=0.6)
    outline(axes, view.shown(view.patch.truth), TRUTH_COLOUR, 1.0)
