"""Plan a detection group: whole images at one input size, with anchors and queries fitted to its boxes."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import CaseFingerprint, ConfigurationPlan, Fingerprint, Plan, Reason
from mdkd_auto.planners.classification import plan_whole_images
from mdkd_auto.planners.group_member import Floats, Member
from mdkd_auto.planners.memory import text_voxels
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_stability import earlier_configuration

STEP = 32  # total stride of a ResNet, and patch x windows of the RF-DETR sizes that accept any plan
MOST = 512  # voxels per side: DeepLesion's slices; RF-DETR small's input
LEAST = 64
LEVELS = 4  # feature pyramid, strides 4 to 32
SMALL_BOX_PERCENTILE, LARGE_BOX_PERCENTILE = 10.0, 90.0
LEAST_ANCHOR = 8.0  # voxels per side: two of the finest level
RATIOS = (0.5, 1.0, 2.0)  # Faster R-CNN's
TALL = 3.0  # if boxes often exceed this aspect ratio, RATIOS extend to it
WELL_PLACED = 0.5  # intersection over union of a box and its best anchor, concentric
KEEP_WITHIN = 0.05  # fraction of a data set's boxes that anchors of an earlier plan may place worse
QUERIES_A_BOX = 3  # per object of the fullest image, so that several compete for it
LEAST_QUERIES, MOST_QUERIES = 20, 300  # RF-DETR's own is 300

Anchors = tuple[tuple[float, ...], tuple[float, ...]]  # sizes and ratios


def plan_detection(members: Sequence[Member], request: PlanRequest, kept: Plan | None) -> list[ConfigurationPlan]:
    """Plan one square input for all images of a group, a batch, anchors and queries. Raises PlanError for volumes.

    Anchors and queries of the earlier plan are kept while they are about as good, so finished work stays valid.
    """
    earlier = earlier_configuration(kept, "2d", request.memory_gb)
    volumes = ", ".join(member.name for member in members if not member.is_2d)
    if volumes:
        raise PlanError(f"{volumes}: detection takes 2-D images; these are volumes")
    plan = plan_whole_images("2d", members, request, kept, most=MOST)
    side = plan.patch_size[0]
    boxes = {member.name: scaled_boxes(member.cases, side) for member in members}
    sizes, ratios, why_anchors = choose_anchors(boxes)
    fullest = max(len(case.boxes) for member in members for case in member.cases)
    queries, why_queries = choose_queries(fullest, side)
    if earlier is not None and earlier.patch_size == plan.patch_size and earlier.anchor_sizes:
        old = earlier.anchor_sizes, earlier.anchor_ratios
        if old != (sizes, ratios) and about_as_good(boxes, old, (sizes, ratios)):
            because = f"the rules would now say {_anchor_text(sizes, ratios)}; they fit hardly more boxes"
            sizes, ratios = old
            why_anchors = [Reason(decision="anchors kept", value=_anchor_text(*old), because=because), *why_anchors[1:]]
        if queries != earlier.queries >= fullest:
            because = f"the rules would now say {queries}; the fullest image has {fullest} boxes"
            queries = earlier.queries
            why_queries = Reason(decision="queries kept", value=str(queries), because=because)
    reasons = (*plan.reasons, *why_anchors, why_queries)
    return [msgspec.structs.replace(plan, anchor_sizes=sizes, anchor_ratios=ratios, queries=queries, reasons=reasons)]


def scaled_boxes(cases: Sequence[CaseFingerprint], side: int) -> Floats:
    """Height and width (N, 2) of every box in input voxels, with each image scaled to just fit the input."""
    rows = [np.array(case.boxes) * (side / max(case.cropped_shape[1:])) for case in cases if case.boxes]
    return np.concatenate(rows) if rows else np.zeros((0, 2))


def choose_anchors(boxes: Mapping[str, Floats]) -> tuple[tuple[float, ...], tuple[float, ...], list[Reason]]:
    """Choose one size per level, from small to large boxes in equal logarithmic steps, and aspect ratios.

    Every data set has the same weight, however many boxes it has. Raises PlanError without any box.
    """
    given = {name: values for name, values in boxes.items() if len(values)}
    if not given:
        raise PlanError("no data set of the group has a box outside its test part, so there is nothing to detect")
    sides = {name: np.sqrt(values.prod(axis=1)) for name, values in given.items()}
    small = min(float(np.percentile(values, SMALL_BOX_PERCENTILE)) for values in sides.values())
    large = max(float(np.percentile(values, LARGE_BOX_PERCENTILE)) for values in sides.values())
    first = max(LEAST_ANCHOR, small)
    last = max(large, first * 2 ** (LEVELS - 1) / 4)  # keep the levels distinct
    sizes = tuple(round(float(size), 1) for size in np.geomspace(first, last, LEVELS))
    shapes = [float(np.percentile(np.maximum(v[:, 0] / v[:, 1], v[:, 1] / v[:, 0]), 90)) for v in given.values()]
    ratios = (1 / TALL, *RATIOS, TALL) if max(shapes) > TALL else RATIOS
    placed = {name: best_overlap(values, sizes, ratios) >= WELL_PLACED for name, values in given.items()}
    listed = ", ".join(f"{name} {share.mean():.0%}" for name, share in placed.items())
    because = (
        f"the smallest {SMALL_BOX_PERCENTILE:g}th percentile of a data set's boxes is {small:.3g} voxels a side of the "
        f"input, the largest {LARGE_BOX_PERCENTILE:g}th {large:.3g}; boxes that overlap an anchor of their place by "
        f"half: {listed}"
    )
    reasons = [Reason(decision="anchors", value=_anchor_text(sizes, ratios), because=because)]
    if small < LEAST_ANCHOR:
        because = (
            f"a tenth of the boxes is smaller than {LEAST_ANCHOR:g} voxels a side and is likely to be missed; a "
            "larger --input-size shows them larger"
        )
        reasons.append(Reason(decision="small boxes", value=f"{small:.3g} voxels", because=because))
    return sizes, ratios, reasons


def about_as_good(boxes: Mapping[str, Floats], old: Anchors, new: Anchors) -> bool:
    """Whether old anchors place about as many boxes of every data set as new ones."""
    given = [values for values in boxes.values() if len(values)]
    shares = [[(best_overlap(values, *anchors) >= WELL_PLACED).mean() for anchors in (old, new)] for values in given]
    return all(before >= after - KEEP_WITHIN for before, after in shares)


def _anchor_text(sizes: Sequence[float], ratios: Sequence[float]) -> str:
    shapes = ", ".join(f"{ratio:.2g}" for ratio in ratios)
    return f"{', '.join(f'{size:g}' for size in sizes)} voxels; height / width {shapes}"


def best_overlap(boxes: Floats, sizes: Sequence[float], ratios: Sequence[float]) -> Floats:
    """Intersection over union of each box (N, 2: height, width) with the best concentric anchor."""
    anchors = np.array([(size * math.sqrt(ratio), size / math.sqrt(ratio)) for size in sizes for ratio in ratios])
    common = np.minimum(boxes[:, None], anchors).prod(-1)  # (N, anchors)
    overlaps: Floats = (common / (boxes.prod(-1)[:, None] + anchors.prod(-1) - common)).max(1)
    return overlaps


def choose_queries(fullest: int, side: int) -> tuple[int, Reason]:
    """Choose RF-DETR's queries: a few per object of the fullest image, at most the number of tokens."""
    tokens = (side // STEP * 2) ** 2  # patches of 16 voxels
    queries = min(tokens, MOST_QUERIES, max(LEAST_QUERIES, QUERIES_A_BOX * fullest))
    because = (
        f"{QUERIES_A_BOX} for each box of the fullest image ({fullest}), from {LEAST_QUERIES} to {MOST_QUERIES}; an "
        f"input of {text_voxels((side, side))} voxels gives {tokens} tokens of 16 x 16, which are the most"
    )
    return queries, Reason(decision="queries", value=str(queries), because=because)


def _percentiles(values: Floats) -> str:
    """Format the 10th, 50th and 90th percentile."""
    return ", ".join(f"{value:.3g}" for value in np.percentile(values, (10, 50, 90)))


def _image_sizes(fingerprint: Fingerprint) -> str:
    """Format height and width of the smallest, median and largest image by area; once if all are equal."""
    sizes = sorted((case.shape[1:] for case in fingerprint.cases), key=lambda size: (math.prod(size), size))
    if sizes[0] == sizes[-1]:
        return f"{text_voxels(sizes[0])} pixels"
    listed = ", ".join(text_voxels(size) for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    return f"{listed} pixels (smallest, median, largest)"


def box_counts(fingerprint: Fingerprint) -> Reason:
    """Report boxes per class, images with and without boxes, and the box sizes."""
    counts = ", ".join(f"{name} {count}" for name, count in fingerprint.classes.items())
    per_image = [len(case.boxes) for case in fingerprint.cases]
    empty = sum(count == 0 for count in per_image)
    because = (
        f"{len(per_image)} images of {fingerprint.patients} patients outside the test part, of "
        f"{_image_sizes(fingerprint)}; {empty} ({empty / len(per_image):.0%}) without a box; boxes an image: median "
        f"{np.median(per_image):g}, at most {max(per_image)}"
    )
    sizes = np.array([box for case in fingerprint.cases for box in case.boxes])  # (N, 2) height, width
    if len(sizes):
        because += f"; boxes of {_percentiles(np.sqrt(sizes.prod(1)))} pixels a side (10, 50, 90 %)"
        known = [(box, case.spacing_mm[1:]) for case in fingerprint.cases if case.spacing_known for box in case.boxes]
        if known:
            sides_mm = np.sqrt(np.array(known).prod(1).prod(1))
            because += f", which are {_percentiles(sides_mm)} mm"
            because += f" of the {len(known)} whose spacing is known" if len(known) < len(sizes) else ""
        because += f"; height / width {_percentiles(sizes[:, 0] / sizes[:, 1])}"
    return Reason(decision=f"{fingerprint.dataset}: boxes", value=counts, because=because)
