import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.errors import ImageError, PredictionError, SettingsError
from mdkd_auto.core.records import Case, ConfigurationPlan, Dataset, DatasetPlan, IntTriple, Normalisation, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.formats.image import Header, Image
from mdkd_auto.formats.read_write import read_image
from mdkd_auto.tasks.segmentation.training import (
    Predictor,
    SegmentationTask,
    channels_of,
    check_architecture,
    check_settings,
    decode,
    predict_file,
    score_case,
)
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes, classes_of
from mdkd_auto.tasks.shared.prediction import PredictionOptions

pytestmark = pytest.mark.usefixtures("one_thread")


def dataset(labels: dict[str, tuple[int, ...]], order: tuple[int, ...] = (), ignore: int | None = None) -> Dataset:
    return Dataset(
        name="Dataset001_Toy",
        folder="/nowhere",
        task="segmentation",
        modality="MRI",
        channel_names=("T1",),
        labels=labels,
        regions_class_order=order,
        ignore_label=ignore,
        file_ending=".nii.gz",
        cases=(),
    )


SEPARATE = dataset({"oedema": (1,), "core": (3,)}, ignore=4)
REGIONS = dataset({"whole": (1, 2, 3), "core": (2, 3), "active": (3,)}, order=(1, 2, 3))


# --- classes, channels, masks ---------------------------------------------------------------------------------------


def test_one_foreground() -> None:
    classes = classes_of(SEPARATE, keep_classes=False)
    assert classes.channels == (ClassChannel(name="foreground", values=(1, 3), written=1),)
    assert (classes.regions, classes.ignore) == (False, 4)
    assert classes_of(REGIONS, keep_classes=False).channels[0].values == (1, 2, 3)
    assert not classes_of(REGIONS, keep_classes=False).regions


def test_the_data_sets_own_classes() -> None:
    classes = classes_of(SEPARATE, keep_classes=True)
    assert [(c.name, c.values, c.written) for c in classes.channels] == [("oedema", (1,), 1), ("core", (3,), 3)]
    assert not classes.regions
    regions = classes_of(REGIONS, keep_classes=True)
    assert regions.regions
    assert [(c.name, c.values, c.written) for c in regions.channels] == [
        ("whole", (1, 2, 3), 1),
        ("core", (2, 3), 2),
        ("active", (3,), 3),
    ]


def test_channels_by_hand() -> None:
    labels = torch.tensor([[[0, 1, 3, 4, -1]]], dtype=torch.int16)
    maps, valid = channels_of(labels, classes_of(SEPARATE, keep_classes=True))
    assert maps[0, :, 0].tolist() == [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert valid[0, 0, 0].tolist() == [1, 1, 1, 0, 0]
    assert maps.shape == (1, 2, 1, 5)
    assert valid.shape == (1, 1, 1, 5)
    maps, valid = channels_of(labels, classes_of(SEPARATE, keep_classes=False))
    assert maps[0, 0, 0].tolist() == [0, 1, 1, 0, 0]
    maps, valid = channels_of(torch.tensor([[[0, 1, 2, 3, -1]]]), classes_of(REGIONS, keep_classes=True))
    assert maps[0, :, 0].tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    assert valid[0, 0, 0].tolist() == [1, 1, 1, 1, 0]


def test_decoding_classes_by_hand() -> None:
    probabilities = np.array([[0.2, 0.6, 0.7, 0.5, 0.9], [0.1, 0.4, 0.8, 0.5, 0.3]], dtype=np.float32)
    labels = decode(probabilities[:, None, None], classes_of(SEPARATE, keep_classes=True))
    assert labels.tolist() == [[[0, 1, 3, 0, 1]]]
    assert labels.dtype == np.uint8


def test_decoding_regions_paints_in_order() -> None:
    probabilities = np.array([[0.2, 0.9, 0.9, 0.9, 0.2], [0.1, 0.1, 0.8, 0.6, 0.6], [0.1, 0.2, 0.3, 0.7, 0.1]])
    assert decode(probabilities[:, None, None], classes_of(REGIONS, keep_classes=True)).tolist() == [[[0, 1, 2, 3, 2]]]


@pytest.mark.parametrize(("of", "keep"), [(SEPARATE, True), (REGIONS, True), (SEPARATE, False)])
def test_channels_decode_to_the_labels(of: Dataset, keep: bool) -> None:
    classes = classes_of(of, keep)
    values = [0, *{value for values in of.labels.values() for value in values}]
    labels = np.random.default_rng(0).choice(values, (2, 5, 6))
    maps, _ = channels_of(torch.from_numpy(labels)[None], classes)
    np.testing.assert_array_equal(decode(maps[0].numpy(), classes), labels if keep else labels > 0)


# --- loss and scores ------------------------------------------------------------------------------------------------


def plan(patch: tuple[int, ...] = (16, 16)) -> ConfigurationPlan:
    axes = len(patch)
    topology = Topology(
        features=(2, 4, 4), kernel_sizes=((3,) * axes,) * 3, strides=((1,) * axes, (2,) * axes, (2,) * axes)
    )
    return ConfigurationPlan(
        configuration="2d" if axes == 2 else "3d_fullres",
        datasets=("Dataset001_Toy",),
        spacing_mm=(1.0,) * axes,
        patch_size=patch,
        batch_size=2,
        topology=topology,
        reasons=(),
    )


@pytest.mark.parametrize("axes", [2, 3])
def test_networks_of_the_task(axes: int) -> None:
    task = SegmentationTask(plan((16,) * axes), {"a": classes_of(SEPARATE, True)}, Settings(), width=4)
    encoder = task.encoder()
    assert encoder.channels == (4, 8, 8)
    assert task.outputs("a") == 2
    assert task.head(2)(encoder(torch.zeros(1, 1, *(16,) * axes))).shape == (1, 2, *(16,) * axes)


def test_the_loss_is_dice_and_cross_entropy_of_what_counts() -> None:
    classes = {"a": classes_of(SEPARATE, keep_classes=True)}
    output = torch.zeros(1, 2, 1, 4)
    batch = Batch(torch.zeros(1, 1, 1, 4), torch.tensor([[[0, 1, 4, -1]]], dtype=torch.int16), ("case",))
    dice = 1 - ((2 * 0.5 + 1) / (1 + 1 + 1) + (0 + 1) / (1 + 0 + 1)) / 2  # p = 0.5 at two voxels, smooth 1
    both = SegmentationTask(plan(), classes, Settings()).loss(output, batch, "a")
    alone = SegmentationTask(plan(), classes, Settings(task_loss="dice")).loss(output, batch, "a")
    assert alone.item() == pytest.approx(dice)
    assert both.item() == pytest.approx(dice + np.log(2))
    ignored = output.clone()
    ignored[..., 2:] = 100.0
    assert SegmentationTask(plan(), classes, Settings()).loss(ignored, batch, "a").item() == pytest.approx(both.item())


def test_the_validation_score_in_parts() -> None:
    task = SegmentationTask(plan(), {"a": classes_of(SEPARATE, keep_classes=True)}, Settings())
    labels = torch.tensor([[[1, 1, 0, 4, -1]], [[3, 0, 0, 0, 0]]], dtype=torch.int16)
    first = torch.tensor([[[5.0, -5, 5, 5, 5]], [[-5.0, 5, -5, -5, -5]]])  # (B, 1, 5) for oedema
    output = torch.stack([first, -torch.ones(2, 1, 5)], dim=1)
    score = task.score(output, Batch(torch.zeros(2, 1, 1, 5), labels, ("b", "c")), "a")
    assert score.numerator.tolist() == [2, 0]  # one voxel shared
    assert score.denominator.tolist() == [3 + 2, 0 + 1]  # the ignored and the invalid voxel apart


def image(array: np.ndarray) -> Image:
    return Image(array, (1.0, 1.0, 1.0), True, Header(".nii.gz", array.shape))


def test_scores_of_regions() -> None:
    """Painted masks hold one value a voxel: a region is what it and the regions inside it painted."""
    classes = classes_of(REGIONS, keep_classes=True)
    truth = np.array([[[0, 0, 1, 1, 2, 2, 3, 3]]])
    predicted = np.array([[[0, 1, 1, 2, 2, 2, 3, 0]]], dtype=np.uint16)
    scores = score_case(predicted, image(truth), classes)
    assert {name: part.dice for name, part in scores.items()} == pytest.approx(
        {"whole": 2 * 5 / (6 + 6), "core": 2 * 3 / (4 + 4), "active": 2 * 1 / (1 + 2)}
    )


@pytest.mark.parametrize(("of", "keep"), [(SEPARATE, True), (SEPARATE, False), (REGIONS, True), (REGIONS, False)])
def test_the_truth_scores_one(of: Dataset, keep: bool) -> None:
    """Written by whichever program, in the data set's own values."""
    labels = np.random.default_rng(0).choice([0, *{v for values in of.labels.values() for v in values}], (3, 6, 7))
    scores = score_case(labels.astype(np.uint16), image(labels), classes_of(of, keep))
    assert all(part.dice == 1 and part.hd95 == 0 for part in scores.values())


def test_regions_without_an_innermost_name() -> None:
    """Value 3 belongs to the core although no class writes it."""
    classes = classes_of(dataset({"whole": (1, 2, 3), "core": (2, 3)}, order=(1, 2)), keep_classes=True)
    truth = np.array([[[0, 1, 2, 3]]])
    for predicted in ([0, 1, 2, 2], [0, 1, 2, 3]):
        scores = score_case(np.array([[predicted]], dtype=np.uint16), image(truth), classes)
        assert [part.dice for part in scores.values()] == [1, 1]


def test_ignored_voxels_do_not_score() -> None:
    truth = np.array([[[0, 1, 4, 4, 3]]])
    predicted = np.array([[[0, 1, 1, 3, 3]]], dtype=np.uint16)
    scores = score_case(predicted, image(truth), classes_of(SEPARATE, keep_classes=True))
    assert all(part.dice == 1 and part.false_positive == 0 for part in scores.values())


# --- prediction of files --------------------------------------------------------------------------------------------

SPACING = (1.5, 1.2, 3.0)  # mm, x y z
SHAPE = (24, 30, 11)  # x y z
AFFINE = np.array([[1.5, 0, 0, -20], [0, 1.2, 0, 5], [0, 0, 3.0, 40.0], [0, 0, 0, 1]])
ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


class Threshold(nn.Module):
    """Foreground where the normalised image is above 0.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * (x - 0.5)


class TwoThresholds(nn.Module):
    """A second channel from 0.75 on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * (torch.cat([x, x - 0.25], dim=1) - 0.5)


class BrightIsNan(nn.Module):
    """NaN where the normalised image is above 0.75."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (0.75 - x).sqrt()


def blob() -> np.ndarray:
    """A smooth, lopsided bump (x, y, z in RAS) from 0 to 100; no voxel is zero."""
    x, y, z = np.meshgrid(*[np.arange(count) * step for count, step in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    first = ((x - 14) / 9) ** 2 + ((y - 15) / 11) ** 2 + ((z - 14) / 10) ** 2
    second = ((x - 24) / 7) ** 2 + ((y - 22) / 6) ** 2 + ((z - 20) / 7) ** 2
    return (100 * np.maximum(np.exp(-first), np.exp(-second)) + 1).astype(np.float32)


def turned(voxels: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """File axis n runs along canonical axis axes[n], backwards where flips[n]."""
    stored = np.flip(voxels.transpose(axes), [n for n in range(3) if flips[n]] or ())
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for n in range(3):
        step[axes[n], n] = -1 if flips[n] else 1
        step[axes[n], 3] = stored.shape[n] - 1 if flips[n] else 0
    return np.ascontiguousarray(stored), AFFINE @ step


def predictor(
    patch: tuple[int, ...] = (16, 16),
    spacing: tuple[float, ...] = (1.2, 1.5),
    transpose: IntTriple = (0, 1, 2),
    written: int = 1,
    mirror: bool = False,
) -> Predictor:
    """Intensities 1 to 101 become 0 to 1."""
    scheme = Normalisation(scheme="ct", lower=1.0, upper=101.0, mean=1.0, std=100.0)
    classes = Classes(channels=(ClassChannel(name="a", values=(1,), written=written),), regions=False, ignore=None)
    return Predictor(
        Threshold(),
        DatasetPlan(
            dataset="Dataset001_Toy",
            channel=1,
            channel_name="T2",
            transpose=transpose,
            normalisation=scheme,
            assumed_spacing_mm=(1.0, 1.0, 1.0),
        ),
        ConfigurationPlan(
            configuration="2d" if len(patch) == 2 else "3d_fullres",
            datasets=(),
            spacing_mm=spacing,
            patch_size=patch,
            batch_size=2,
            topology=plan().topology,
            reasons=(),
        ),
        classes,
        PredictionOptions(torch.device("cpu"), mirror=mirror),
    )


def case_of(path: Path, *more: Path) -> Case:
    name = path.name.split(".")[0].removesuffix("_0000")
    return Case(case_id=name, images=tuple(map(str, (path, *more))), patient_id=name)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * np.sum((first > 0) & (second > 0)) / (np.sum(first > 0) + np.sum(second > 0)))


def test_masks_lie_where_their_images_do_in_all_orientations(tmp_path: Path) -> None:
    for number, (axes, flips) in enumerate(ORIENTATIONS):
        voxels, affine = turned(blob(), axes, flips)
        source = tmp_path / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, affine), source)
        made = predict_file(predictor(), case_of(source), tmp_path / "masks")
        assert made == tmp_path / "masks" / f"{number}.nii.gz"
        mask = nib.load(made)
        assert mask.shape == voxels.shape
        np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
        assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(affine)
        np.testing.assert_array_equal(np.asarray(mask.dataobj), voxels > 51)
        first, second = sitk.ReadImage(str(made)), sitk.ReadImage(str(source))
        assert first.GetSize() == second.GetSize()
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(first, get)(), getattr(second, get)(), atol=1e-5)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second) > 51)


@pytest.mark.parametrize("number", [0, 13, 22, 37, 46])
@pytest.mark.parametrize(
    ("patch", "spacing", "transpose"),
    [((16, 16), (1.0, 1.0), (0, 1, 2)), ((16, 16), (2.0, 1.0), (2, 0, 1)), ((8, 16, 16), (2.0, 1.0, 1.0), (0, 2, 1))],
)
def test_masks_of_resampled_images(
    number: int, patch: tuple[int, ...], spacing: tuple[float, ...], transpose: IntTriple, tmp_path: Path
) -> None:
    """Another spacing and other axes in network space; through SimpleITK's format."""
    voxels, affine = turned(blob(), *ORIENTATIONS[number])
    lps = np.diag([-1, -1, 1, 1]) @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    stored = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    stored.SetSpacing(steps.tolist())
    stored.SetOrigin(lps[:3, 3].tolist())
    stored.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    source = tmp_path / "scan_0000.mha"
    sitk.WriteImage(stored, str(source))
    made = predict_file(predictor(patch, spacing, transpose, written=300), case_of(source), tmp_path / "masks")
    mask = sitk.ReadImage(str(made))
    assert made.name == "scan.mha"
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, get)(), getattr(stored, get)(), atol=1e-6)
    found = sitk.GetArrayFromImage(mask).T
    assert set(np.unique(found)) == {0, 300}
    assert dice(found, voxels > 51) > 0.98


def test_mirroring_changes_nothing_for_a_symmetric_model(tmp_path: Path) -> None:
    voxels, affine = turned(blob(), *ORIENTATIONS[9])
    source = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), source)
    found = read_image(source)
    np.testing.assert_array_equal(predictor(mirror=True).mask(found), predictor().mask(found))


def test_the_models_channel_is_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"a_{channel:04d}.nii.gz" for channel in range(2)]
    for path, voxels in zip(paths, (np.ones(SHAPE, np.float32), blob()), strict=True):
        nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    made = predict_file(predictor(), case_of(*paths), tmp_path / "masks")
    np.testing.assert_array_equal(np.asarray(nib.load(made).dataobj), blob() > 51)
    three = predictor()
    three = three._replace(
        dataset_plan=DatasetPlan(
            dataset="Dataset001_Toy",
            channel=2,
            channel_name="FLAIR",
            transpose=(0, 1, 2),
            normalisation=three.dataset_plan.normalisation,
        )
    )
    with pytest.raises(PredictionError, match=r"channel 2 \(FLAIR\), found only 2"):
        predict_file(three, case_of(*paths), tmp_path / "masks")


def test_an_empty_and_a_black_image_have_empty_masks(tmp_path: Path) -> None:
    for name, value in (("low", 1.0), ("black", 0.0)):
        nib.save(nib.Nifti1Image(np.full(SHAPE, value, np.float32), AFFINE), tmp_path / f"{name}.nii.gz")
        made = predict_file(predictor(), case_of(tmp_path / f"{name}.nii.gz"), tmp_path / "masks")
        assert not np.asarray(nib.load(made).dataobj).any()


def test_an_answer_of_nan_is_not_background(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(blob(), AFFINE), tmp_path / "a.nii.gz")
    broken = predictor()._replace(model=BrightIsNan())
    with pytest.raises(PredictionError, match="NaN or infinite; expected finite numbers"):
        predict_file(broken, case_of(tmp_path / "a.nii.gz"), tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_voxels_cropped_away_are_background(tmp_path: Path) -> None:
    voxels = blob()
    voxels[:5] = 0
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    made = predict_file(predictor(), case_of(tmp_path / "a.nii.gz"), tmp_path / "masks")
    np.testing.assert_array_equal(np.asarray(nib.load(made).dataobj), voxels > 51)


@pytest.mark.parametrize("number", [0, 13, 37])
@pytest.mark.parametrize(
    ("patch", "spacing", "transpose"),
    [((16, 16), (1.0, 1.0), (0, 1, 2)), ((16, 16), (2.0, 1.0), (2, 0, 1)), ((8, 16, 16), (2.0, 1.0, 1.0), (0, 2, 1))],
)
def test_masks_in_a_wide_field_of_air(
    number: int, patch: tuple[int, ...], spacing: tuple[float, ...], transpose: IntTriple, tmp_path: Path
) -> None:
    """Two classes, thick slices, cropped planes, air of any value below the clip."""
    inner = blob()
    voxels = np.full(tuple(size + 30 for size in SHAPE), -500.0, dtype=np.float32)
    voxels[:8] = 0  # cropped where these planes are the first
    place = tuple(slice(3 * axis, 3 * axis + size) for axis, size in enumerate(SHAPE, start=3))
    voxels[place] = inner
    stored, _ = turned(voxels, *ORIENTATIONS[number])
    affine = AFFINE.copy()
    axes, flips = ORIENTATIONS[number]
    affine[:3, :3] = [
        [SPACING[axes[n]] * (-1 if flips[n] else 1) * (axes[n] == row) for n in range(3)] for row in range(3)
    ]
    source = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(stored, affine), source)
    both = predictor(patch, spacing, transpose)
    channels = tuple(ClassChannel(name=str(value), values=(value,), written=value) for value in (2, 7))
    both = both._replace(model=TwoThresholds(), classes=Classes(channels=channels, regions=True, ignore=None))
    found = np.asarray(nib.load(predict_file(both, case_of(source), tmp_path / "masks")).dataobj)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 2, 7}
    assert dice(found, stored > 51) > 0.98
    assert dice(found == 7, stored > 76) > 0.95


def test_an_image_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """A network answers NaN with NaN, and the mask would be empty."""
    voxels = blob()
    voxels[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=r"a\.nii\.gz: 1 voxels are NaN"):
        predict_file(predictor(), case_of(tmp_path / "a.nii.gz"), tmp_path / "masks")
    assert not (tmp_path / "masks" / "a.nii.gz").exists()


def test_a_network_that_segmentation_does_not_have() -> None:
    with pytest.raises(SettingsError, match="'medvit_small': segmentation has unet, tresunet"):
        check_architecture("medvit_small")


@pytest.mark.parametrize(
    ("changes", "patch", "words"),
    [
        ({"teacher_architecture": "medvit_small"}, (16, 16), "'medvit_small': segmentation has unet, tresunet"),
        ({"student_architecture": "tresunet", "student_width": 2}, (16, 16), "Width 2 is too narrow for a TResUNet"),
        ({"teacher_architecture": "tresunet", "student_width": 2}, (16, 16), "Width 2 is too narrow for a TResUNet"),
        ({"student_architecture": "tresunet", "width": 2}, (16, 16), "Width 2 is too narrow for a TResUNet"),
        ({"student_architecture": "tresunet", "pretrained": "online"}, (16, 16), "no library has weights"),
        ({"student_architecture": "tresunet", "pretrained": "a.safetensors"}, (8, 16, 16), "this plan is 3-D"),
        (
            {"teacher_architecture": "tresunet", "pretrained": "a.safetensors", "student_width": 16},
            (16, 16),
            "a TResUNet of width 64, and this one has 16",
        ),
    ],
)
def test_what_segmentation_cannot_train(changes: dict[str, Any], patch: tuple[int, ...], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check_settings(Settings(**changes).for_task("segmentation"), plan(patch))


def test_what_segmentation_can_train() -> None:
    for changes in (
        {"student_width": 2},
        {"teacher_architecture": "tresunet", "student_architecture": "unet", "student_width": 2},
        {"teacher_architecture": "tresunet", "pretrained": "a.safetensors"},
        {"student_architecture": "tresunet", "student_width": 64, "width": 8, "pretrained": "a.safetensors"},
    ):
        check_settings(Settings(**changes).for_task("segmentation"), plan())  # type: ignore[arg-type]
