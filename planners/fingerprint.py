"""Fingerprint a data set case by case for the planner; unchanged cases are read from the cache."""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path

import cc3d
import msgspec
import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import (
    ReadError,
    content_hash,
    make_folder,
    raise_if_refused,
    read_record,
    write_atomically,
    write_json,
)
from mdkd_auto.core.records import (
    Box,
    Case,
    CaseFingerprint,
    Dataset,
    Fingerprint,
    Intensities,
    IntTriple,
    Lesion,
    Triple,
)
from mdkd_auto.core.workers import map_cases
from mdkd_auto.datasets.case_reading import Array, bytes_to_read, inspect_case, source_hash
from mdkd_auto.datasets.problems import KINDS, Finding, Problem, problem
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.formats.exif import UPRIGHT
from mdkd_auto.planners.intensities import Histogram, histogram, image_percentiles, pool, statistics
from mdkd_auto.planners.near_duplicates import is_picture_hash, picture_hash, thumbnail, thumbnail_hash
from mdkd_auto.preprocessing.crop import box_shape, box_slices, nonzero_box
from mdkd_auto.preprocessing.lesions import largest_diameters_mm

log = logging.getLogger(__name__)

FINGERPRINT_VERSION = 5  # raise it if fingerprints are computed differently

THUMBNAIL = "thumbnail"  # key in a case's stored arrays


def fingerprint_dataset(
    dataset: Dataset, cache_folder: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> tuple[Fingerprint, list[Problem]]:
    """Read, check and fingerprint every case; returns also the problems of the cases that were excluded.

    Plans use the result of :func:`pooled_fingerprint`, once the test part is known.
    """
    make_folder(cache_folder)
    without_cases = msgspec.structs.replace(dataset, cases=())
    work = partial(fingerprint_case, dataset=without_cases, cache_folder=cache_folder)
    items = {case.case_id: case for case in dataset.cases}
    needed = max((bytes_to_read(case) for case in dataset.cases), default=0)
    results, failed = map_cases(work, items, workers, progress, bytes_a_worker=needed)
    problems = [problem("not-checked", text, dataset=dataset.name, case_id=case_id) for case_id, text in failed.items()]
    cases = []
    for case_id, result in results.items():
        if isinstance(result, CaseFingerprint):
            cases.append(result)
            continue
        problems += [
            problem(
                finding.kind,
                finding.found,
                dataset=dataset.name,
                case_id=case_id,
                file=finding.file,
                remedy=finding.remedy,
            )
            for finding in result
        ]
    return pooled_fingerprint(dataset, cases, cache_folder), problems


def pooled_fingerprint(
    dataset: Dataset, cases: Sequence[CaseFingerprint], cache_folder: Path, test: Set[str] = frozenset()
) -> Fingerprint:
    """Pool the fingerprints of a data set's cases.

    ``test`` cases enter no statistic, but count in decisions on how images are read.
    """
    used = [case for case in cases if case.case_id not in test]
    seen = {case.case_id for case in used}
    counted = [case for case in dataset.cases if case.case_id in seen]
    classes = Counter(case.class_name for case in counted)
    classes.update(box.class_name for case in counted for box in case.boxes or ())
    return Fingerprint(
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        is_2d=bool(cases) and all(case.shape[0] == 1 for case in cases),
        spacing_known=all(case.spacing_known for case in cases),
        foreground=_pooled(used, len(dataset.channel_names), cache_folder),
        cases=tuple(used),
        patients=len({case.patient_id for case in counted}),
        classes={} if TASK_DATA[dataset.task].masks else {name: classes[name] for name in dataset.labels},
    )


def fingerprint_case(case: Case, dataset: Dataset, cache_folder: Path) -> CaseFingerprint | list[Finding]:
    """Fingerprint one case, from the cache if files and declarations are unchanged; or return its problems."""
    declared = {
        "labels": dataset.labels,
        "ignore": dataset.ignore_label,
        "spacing_mm": dataset.spacing_mm,
        **({} if case.spacing_from is None else {"spacing_from": case.spacing_from}),
    }
    try:
        key = content_hash([source_hash(case), declared, dataset.task, FINGERPRINT_VERSION])
    except ReadError as error:
        return [Finding("refused", error.file, error.found)]
    cached = _read_cached(case.case_id, key, cache_folder)
    if cached is not None:
        return cached
    arrays, findings = inspect_case(case, dataset)
    if arrays is None:
        return findings
    whole = all(_is_integer_valued(channel) for channel in arrays.channels)
    foreground = None if arrays.label is None else foreground_mask(arrays.label, dataset)
    if case.boxes is not None:
        foreground = inside_boxes(case.boxes, arrays.channels[0].shape)
    histograms = [
        histogram(channel[foreground] if foreground is not None else channel[:0].ravel(), whole)
        for channel in arrays.channels
    ]
    shape = _triple_of_ints(arrays.channels[0].shape)
    spacing = arrays.spacing_mm if arrays.spacing_mm is not None else (1.0, 1.0, 1.0)
    lesions: tuple[Lesion, ...] = ()
    if foreground is not None and case.boxes is None:
        lesions = find_lesions(foreground, spacing, arrays.rectangularity)
    box = nonzero_box(arrays.channels)
    cropped = box_shape(box)
    pictures = TASK_DATA[dataset.task].compare_pictures
    small = None if pictures else thumbnail(arrays.channels[0][box_slices(box)])
    result = CaseFingerprint(
        case_id=case.case_id,
        source_hash=key,
        voxel_hash=_voxel_hash(arrays.channels),
        orientation=arrays.orientation,
        shape=shape,
        spacing_mm=spacing,
        spacing_known=arrays.spacing_mm is not None,
        cropped_shape=cropped,
        nonzero_fraction=math.prod(cropped) / math.prod(shape),
        integer_valued=whole,
        image_minimum=tuple(float(channel.min()) for channel in arrays.channels),
        image_maximum=tuple(float(channel.max()) for channel in arrays.channels),
        image_percentiles=tuple(image_percentiles(channel) for channel in arrays.channels),
        labelled_voxels=0 if foreground is None else int(np.count_nonzero(foreground)),
        foreground=tuple(statistics(part) for part in histograms),
        lesions=lesions,
        remarks=arrays.remarks,
        boxes=tuple((box.height, box.width) for box in case.boxes or ()),
        exif=arrays.exif if any(orientation != UPRIGHT for orientation in arrays.exif) else (),
        picture_hash=picture_hash(arrays.channels[0][shape[0] // 2]) if pictures else "",
        thumbnail_hash="" if small is None else thumbnail_hash(small),
    )
    _write_cached(result, histograms, small, cache_folder)
    return result


def _voxel_hash(channels: Sequence[Array]) -> str:
    """Hash the first channel's values, independent of their stored type and file."""
    first = channels[0]
    digest = hashlib.sha256(str(first.shape).encode())
    for plane in first:
        digest.update(np.ascontiguousarray(plane, dtype=np.float32).data)
    return digest.hexdigest()


def foreground_mask(label: NDArray[np.int16], dataset: Dataset) -> NDArray[np.bool_]:
    """Mask of all labelled voxels: neither background nor ignore."""
    mask: NDArray[np.bool_] = label != 0
    if dataset.ignore_label is not None:
        mask &= label != dataset.ignore_label
    return mask


def inside_boxes(boxes: Sequence[Box], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mask of all voxels (z, y, x) of a 2-D image that a box touches."""
    mask = np.zeros(shape, dtype=np.bool_)
    for box in boxes:
        rows = slice(max(0, math.floor(box.y)), math.ceil(box.y + box.height))
        mask[:, rows, max(0, math.floor(box.x)) : math.ceil(box.x + box.width)] = True
    return mask


def find_lesions(foreground: NDArray[np.bool_], spacing_mm: Triple, rectangularity: float = 1.0) -> tuple[Lesion, ...]:
    """Connected components (26-neighbourhood) with their sizes; for a single slice, area and equivalent disc.

    ``rectangularity``: the volume of a voxel as a fraction of its sides' product.
    """
    components = cc3d.connected_components(foreground, connectivity=26)
    sizes = np.bincount(components.ravel())[1:]
    largest = largest_diameters_mm(components, spacing_mm)
    flat = foreground.shape[0] == 1
    voxel = spacing_mm[1] * spacing_mm[2] * (1.0 if flat else spacing_mm[0]) * rectangularity
    return tuple(
        Lesion(
            volume_mm3=count * voxel,
            diameter_mm=_diameter(count * voxel, flat),
            voxels=count,
            largest_diameter_mm=largest.get(number),
        )
        for number, count in enumerate(sizes.tolist(), start=1)
    )


def _diameter(volume: float, flat: bool) -> float:
    return 2 * math.sqrt(volume / math.pi) if flat else (6 * volume / math.pi) ** (1 / 3)


def _is_integer_valued(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.integer) or np.all(array == np.rint(array)))


def _triple_of_ints(shape: tuple[int, ...]) -> IntTriple:
    return (int(shape[0]), int(shape[1]), int(shape[2]))


# --- cache: {case}.json and {case}.npz ------------------------------------------------------------------------------


def _read_cached(case_id: str, key: str, cache_folder: Path) -> CaseFingerprint | None:
    """Read a cached case; None if absent, or, with a warning, if damaged, so that it is recomputed."""
    record, values = cache_folder / f"{case_id}.json", cache_folder / f"{case_id}.npz"
    if not record.is_file() or not values.is_file():
        return None
    try:
        cached = read_record(record, CaseFingerprint)
        if cached.source_hash != key:
            return None
        if not _makes_sense(cached, case_id):
            raise MdkdError(f"{record}: its numbers make no sense")
        histograms = _read_histograms(values, len(cached.image_minimum))
        if any(len(one.values) != len(one.counts) for one in histograms):
            raise MdkdError(f"{values}: its values and counts are not as many")
    except ReadError:
        raise
    except MdkdError as error:
        log.warning("%s; the case is read again", error)
        return None
    return cached


def _makes_sense(cached: CaseFingerprint, case_id: str) -> bool:
    channels = len(cached.image_minimum)
    return (
        cached.case_id == case_id
        and channels == len(cached.image_maximum) == len(cached.foreground) > 0
        and all(0 <= cropped <= size for cropped, size in zip(cached.cropped_shape, cached.shape, strict=True))
        and all(0 < size < math.inf for size in cached.spacing_mm)
        and is_picture_hash(cached.picture_hash)
        and is_picture_hash(cached.thumbnail_hash)
        and all(kind in KINDS and -1 <= channel < channels for kind, _, channel in cached.remarks)
    )


def _read_histograms(path: Path, channels: int) -> list[Histogram]:
    """Read histograms. Raises ReadError, or MdkdError naming the file if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [Histogram(stored[f"values_{index}"], stored[f"counts_{index}"]) for index in range(channels)]
    except Exception as error:  # zipfile, zlib and numpy raise many types
        raise_if_refused(path, error)
        raise MdkdError(f"{path}: damaged ({error}); delete it") from None


def read_thumbnail(case_id: str, cache_folder: Path) -> NDArray[np.uint8]:
    """Read a fingerprinted case's thumbnail. Raises ReadError, or MdkdError if the cache is damaged."""
    path = cache_folder / f"{case_id}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            small: NDArray[np.uint8] = stored[THUMBNAIL]
            return small
    except Exception as error:  # zipfile, zlib and numpy raise many types
        raise_if_refused(path, error)
        raise MdkdError(f"{path}: damaged ({error}); delete it") from None


def _write_cached(
    result: CaseFingerprint, histograms: list[Histogram], small: NDArray[np.uint8] | None, cache_folder: Path
) -> None:
    arrays: dict[str, Array] = {} if small is None else {THUMBNAIL: small}
    for index, part in enumerate(histograms):
        arrays[f"values_{index}"] = part.values
        arrays[f"counts_{index}"] = part.counts
    write_atomically(cache_folder / f"{result.case_id}.npz", lambda path: _save_arrays(path, arrays))
    write_json(cache_folder / f"{result.case_id}.json", result)


def _save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _pooled(cases: Sequence[CaseFingerprint], channel_count: int, cache_folder: Path) -> tuple[Intensities | None, ...]:
    parts: list[list[Histogram]] = [[] for _ in range(channel_count)]
    for case in cases:
        if not any(case.foreground):
            continue
        stored = _read_histograms(cache_folder / f"{case.case_id}.npz", channel_count)
        for channel, one in zip(parts, stored, strict=True):
            channel.append(one)
    return tuple(statistics(pool(channel)) if channel else None for channel in parts)
