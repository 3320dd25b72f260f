"""Write raw data sets for the demo, tests and benchmarks: CT-like volumes with lesions, images of shapes, and boxes."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from mdkd_auto.core.files import write_atomically, write_bytes, write_text
from mdkd_auto.core.tables import table_text

AIR_HU, LUNG_HU, TISSUE_HU, BONE_HU = -1000.0, -800.0, 40.0, 600.0


class Look(NamedTuple):
    """The scanner and disease characteristics of one data set."""

    name: str
    spacing_mm: tuple[float, float, float]  # (z, y, x)
    shape: tuple[int, int, int]  # (z, y, x)
    noise_hu: float
    scale: float  # factor on all intensities: another kernel or calibration
    contrast_hu: float  # lesion minus tissue
    radius_mm: tuple[float, float]
    elongation: float  # 1: spheres
    ragged: float  # 0: smooth border


LOOKS = (
    Look("Dataset901_RoundBright", (3.0, 3.2, 3.2), (14, 72, 72), 35.0, 1.0, 75.0, (9.0, 20.0), 1.0, 0.0),
    Look("Dataset902_FlatFaint", (4.0, 3.6, 3.6), (12, 64, 64), 30.0, 1.1, 55.0, (12.0, 26.0), 1.8, 0.1),
    Look("Dataset903_RaggedDark", (5.0, 2.9, 2.9), (10, 80, 80), 40.0, 0.9, -75.0, (8.0, 18.0), 1.3, 0.35),
)


def write_datasets(raw: Path, looks: tuple[Look, ...] = LOOKS, cases: int = 12, seed: int = 0) -> None:
    """Write each look as a raw data set of ``cases`` volumes into ``raw``."""
    for number, look in enumerate(looks):
        folder = raw / look.name
        for index in range(cases):
            image, label = volume(look, np.random.default_rng([seed, number, index]))
            case = f"case_{index:03d}"
            _save(folder / "imagesTr" / f"{case}_0000.nii.gz", image, look)
            _save(folder / "labelsTr" / f"{case}.nii.gz", label, look)
        description = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")


def write_new_images(folder: Path, look: Look, cases: int = 2, seed: int = 10_000) -> None:
    """Write unlabelled images, as they would come from the clinic."""
    for index in range(cases):
        image, _ = volume(look, np.random.default_rng([seed, index]))
        _save(folder / f"new_{index:03d}_0000.nii.gz", image, look)


class Pictures(NamedTuple):
    """The characteristics of one classification data set."""

    name: str
    size: tuple[int, int]  # (y, x)
    noise: float  # grey values
    classes: tuple[str, ...]  # names of SHAPES


SHAPES = ("round", "long", "cross")
PICTURES = (
    Pictures("Dataset921_Plain", (72, 72), 10.0, ("round", "long")),
    Pictures("Dataset922_Noisy", (64, 80), 25.0, ("round", "long", "cross")),
    Pictures("Dataset923_Wide", (56, 88), 15.0, ("round", "long", "cross")),
)


def write_pictures(raw: Path, looks: tuple[Pictures, ...] = PICTURES, cases: int = 30, seed: int = 0) -> None:
    """Write each look as a raw classification data set of ``cases`` PNG images into ``raw``; classes alternate."""
    for number, look in enumerate(looks):
        folder = raw / look.name
        rows = []
        for index in range(cases):
            name = look.classes[index % len(look.classes)]
            pixels = picture(look, name, np.random.default_rng([seed, number, index]))
            _save_png(folder / "imagesTr" / f"case_{index:03d}_0000.png", pixels)
            rows.append((f"case_{index:03d}", name))
        write_text(folder / "cases.csv", table_text(("case_id", "label"), rows))
        labels = {name: value for value, name in enumerate(look.classes)}
        description = {
            "task": "classification",
            "channel_names": {"0": "CXR"},
            "labels": labels,
            "numTraining": cases,
            "file_ending": ".png",
        }
        write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")


def picture(look: Pictures, name: str, rng: np.random.Generator) -> np.ndarray:
    """(y, x) uint8: a bright shape of the class at a random position on a noisy grey background."""
    y, x = np.meshgrid(*(np.arange(size) - size / 2 for size in look.size), indexing="ij")
    dy, dx = y - rng.uniform(-8, 8), x - rng.uniform(-8, 8)
    angle, radius = rng.uniform(0, np.pi), rng.uniform(12, 16)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    inside = {
        "round": along**2 + across**2 < radius**2,
        "long": (along / 1.7) ** 2 + (across * 2.2) ** 2 < radius**2,
        "cross": (np.minimum(np.abs(along), np.abs(across)) < 3) & (np.maximum(np.abs(along), np.abs(across)) < radius),
    }[name]
    grey = 70 + 60 * inside + rng.uniform(-15, 15) + rng.normal(0, look.noise, look.size)
    return np.clip(grey, 0, 255).astype(np.uint8)


class Scenes(NamedTuple):
    """The characteristics of one detection data set."""

    name: str
    size: tuple[int, int]  # (y, x)
    noise: float  # grey values
    contrast: float  # grey values, tumour minus tissue
    radius: tuple[float, float]  # pixels, shorter semi-axis
    classes: tuple[str, ...]  # the second class, if any, is hollow


SCENES = (
    Scenes("Dataset931_Clear", (80, 80), 6.0, 90.0, (6.0, 10.0), ("tumour",)),
    Scenes("Dataset932_Faint", (64, 96), 10.0, 60.0, (7.0, 11.0), ("lesion", "cyst")),
    Scenes("Dataset933_Noisy", (96, 72), 16.0, 75.0, (5.0, 9.0), ("mass",)),
)
OBJECTS = (1, 2, 0, 3, 1)  # objects per image, repeated
TISSUE_GREY, TEXTURE_GREY = 80.0, 12.0

Ellipse = tuple[float, float, float, float]  # x1, y1, x2, y2 of its bounding box in pixels, edge to edge


def write_detection_datasets(raw: Path, looks: tuple[Scenes, ...] = SCENES, cases: int = 24, seed: int = 0) -> None:
    """Write each look as a raw detection data set of ``cases`` PNG images with COCO annotations into ``raw``.

    Every fifth image has no object, the others up to three.
    """
    for number, look in enumerate(looks):
        folder = raw / look.name
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for index in range(cases):
            rng = np.random.default_rng([seed, number, index])
            pixels, boxes, classes = scene(look, OBJECTS[index % len(OBJECTS)], rng)
            file = f"case_{index:03d}_0000.png"
            _save_png(folder / "imagesTr" / file, pixels)
            images.append({"id": index + 1, "file_name": file, "height": look.size[0], "width": look.size[1]})
            for (x1, y1, x2, y2), kind in zip(boxes, classes, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": kind + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": kind + 1, "name": name} for kind, name in enumerate(look.classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(folder / "annotations.json", json.dumps(content) + "\n")
        description = {"task": "detection", "channel_names": {"0": "CT"}, "numTraining": cases, "file_ending": ".png"}
        write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")


def write_new_scenes(folder: Path, look: Scenes, cases: int = 2, seed: int = 10_000) -> None:
    """Write images without annotations, as they would come from the clinic."""
    for index in range(cases):
        pixels, _, _ = scene(look, OBJECTS[index % len(OBJECTS)], np.random.default_rng([seed, index]))
        _save_png(folder / f"new_{index:03d}_0000.png", pixels)


def scene(look: Scenes, objects: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Ellipse], list[int]]:
    """(y, x) uint8: tissue with bright ellipses that touch neither each other nor the edge; their boxes and classes.

    An image without enough room has fewer than ``objects``.
    """
    y, x = np.meshgrid(*(np.arange(length) + 0.5 for length in look.size), indexing="ij")
    grey = TISSUE_GREY + rng.uniform(-8, 8) + _texture((1, *look.size), rng, TEXTURE_GREY)[0]
    boxes: list[Ellipse] = []
    classes: list[int] = []
    for _ in range(20 * objects):
        if len(boxes) == objects:
            break
        across, angle, kind = rng.uniform(*look.radius), rng.uniform(0, np.pi), int(rng.integers(len(look.classes)))
        along = across * rng.uniform(1.0, 1.6)
        cosine, sine = np.cos(angle), np.sin(angle)
        half = np.hypot((along * cosine, along * sine), (across * sine, across * cosine))  # x, y
        room = np.array(look.size[::-1]) - 2 * half - 2
        middle = half + 1 + rng.uniform(0, 1, 2) * room
        corners = (*(middle - half), *(middle + half))
        if any(_touch(corners, other) for other in boxes):
            continue
        dx, dy = x - middle[0], y - middle[1]
        distance = np.hypot((dx * cosine + dy * sine) / along, (dy * cosine - dx * sine) / across)
        grey = grey + look.contrast * ((distance < 1) & ((kind == 0) | (distance > 0.5)))
        boxes.append(tuple(round(float(value), 2) for value in corners))  # type: ignore[arg-type]
        classes.append(kind)
    return np.clip(grey + rng.normal(0, look.noise, look.size), 1, 255).astype(np.uint8), boxes, classes


def _touch(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes, x1, y1, x2, y2, have less than two pixels between them."""
    return all(a[axis] - 2 < b[axis + 2] and b[axis] - 2 < a[axis + 2] for axis in (0, 1))


def _save_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image as Pillow

    stored = io.BytesIO()
    Pillow.fromarray(pixels).save(stored, "png")
    write_bytes(path, stored.getvalue())


def volume(look: Look, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image (z, y, x) int16 in HU and label uint8: a body with lungs and spine, and one to three lesions."""
    z, y, x = (
        (np.arange(count) - (count - 1) / 2) * step for count, step in zip(look.shape, look.spacing_mm, strict=True)
    )
    grid = np.meshgrid(z, y, x, indexing="ij")
    width, height = rng.uniform(90, 105), rng.uniform(65, 80)
    body = (grid[2] / width) ** 2 + (grid[1] / height) ** 2 < 1
    image = np.where(body, TISSUE_HU, AIR_HU)
    for side in (-1, 1):
        lung = ((grid[2] - side * 0.5 * width) / 30) ** 2 + ((grid[1] - 12) / 38) ** 2 < 1
        image[lung & body] = LUNG_HU
    spine = (grid[2] / 13) ** 2 + ((grid[1] + 0.7 * height) / 13) ** 2 < 1
    image[spine] = BONE_HU
    image += body * _texture(look.shape, rng, 12.0)
    label = np.zeros(look.shape, dtype=np.uint8)
    for _ in range(rng.integers(1, 4)):
        lesion = _lesion(grid, look, rng, (width, height)) & body & ~spine
        label[lesion] = 1
    image = image + (label > 0) * (np.where(image < -300, TISSUE_HU - LUNG_HU, 0.0) + look.contrast_hu)
    noisy = image * look.scale + rng.normal(0, look.noise_hu, look.shape)
    return np.clip(noisy, -1024, 3071).astype(np.int16), label


def _lesion(grid: Sequence[np.ndarray], look: Look, rng: np.random.Generator, body: tuple[float, float]) -> np.ndarray:
    radius = rng.uniform(*look.radius_mm)
    angle = rng.uniform(0, np.pi)
    centre = (
        rng.uniform(-0.3, 0.3) * look.shape[0] * look.spacing_mm[0],
        rng.uniform(-0.45, 0.55) * body[1],
        rng.uniform(-0.65, 0.65) * body[0],
    )
    dz, dy, dx = (axis - middle for axis, middle in zip(grid, centre, strict=True))
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = np.sqrt((along / look.elongation) ** 2 + across**2 + dz**2)
    border = radius * (1 + look.ragged * np.sin(5 * np.arctan2(across, along)))
    inside: np.ndarray = distance < border
    return inside


def _texture(shape: tuple[int, int, int], rng: np.random.Generator, strength: float) -> np.ndarray:
    """Smooth variation of tissue."""
    coarse = rng.normal(0, strength, tuple(max(2, size // 8) for size in shape))
    for axis, size in enumerate(shape):
        positions = np.linspace(0, coarse.shape[axis] - 1, size)
        below = np.minimum(positions.astype(int), coarse.shape[axis] - 2)
        fraction = np.expand_dims(positions - below, tuple(other for other in range(3) if other != axis))
        coarse = np.take(coarse, below, axis) * (1 - fraction) + np.take(coarse, below + 1, axis) * fraction
    return coarse


def _save(path: Path, array: np.ndarray, look: Look) -> None:
    affine = np.diag([*look.spacing_mm[::-1], 1.0])
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    write_atomically(path, lambda temporary: nib.save(image, temporary))
