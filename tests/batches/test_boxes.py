"""Boxes move as the image does: against augmentation of a picture of the box itself."""

import numpy as np
import pytest
import torch

from mdkd_auto.batches.augmentation import affine_maps, apply, draw
from mdkd_auto.batches.boxes import LEAST_VISIBLE, boxes_in_patch, clipped, moved_boxes
from mdkd_auto.core.records import StoredBox

SIZE = (96, 128)  # y, x


def rows(*boxes: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor([(*box, 1.0) for box in boxes])


def test_a_patch_shifts_its_boxes() -> None:
    boxes = boxes_in_patch([StoredBox(label=3, corners=(10, 20, 30, 50))], (5, -4), SIZE)
    assert boxes.tolist() == [[14, 15, 34, 45, 3]]


def test_a_mirror_image_by_hand() -> None:
    moved = moved_boxes(rows((10, 20, 30, 50)), None, (False, True), SIZE)
    assert moved.tolist() == [[98, 20, 118, 50, 1]]
    moved = moved_boxes(rows((10, 20, 30, 50)), None, (True, False), SIZE)
    assert moved.tolist() == [[10, 46, 30, 76, 1]]


@pytest.mark.parametrize("seed", range(12))
def test_an_ellipse_is_moved_as_the_image_moves_it(seed: int) -> None:
    """The box of the moved picture of an ellipse is the moved box, to a voxel and a half."""
    drawn = draw(np.random.default_rng(seed), 1, 2)
    rng = np.random.default_rng(100 + seed)
    drawn = drawn._replace(turns=rng.uniform(-1, 1, (1, 1)), scale=rng.uniform(0.8, 1.2, 1))
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    centre, half = (60.0, 45.0), (18.0, 9.0)  # x, y
    inside = ((x + 0.5 - centre[0]) / half[0]) ** 2 + ((y + 0.5 - centre[1]) / half[1]) ** 2 <= 1
    label = torch.from_numpy(inside.astype(np.int16))[None]
    quiet = drawn._replace(
        **{
            name: np.full_like(getattr(drawn, name), np.nan)
            for name in ("noise_std", "blur_sigma", "brightness", "contrast", "zoom", "gamma", "inverted_gamma")
        }
    )
    _, moved_label = apply(torch.zeros(1, 1, *SIZE), label, quiet, (1.0, 1.0))
    places = (moved_label[0] == 1).nonzero().numpy()
    seen = [places[:, 1].min(), places[:, 0].min(), places[:, 1].max() + 1, places[:, 0].max() + 1]
    box = rows((centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]))
    (moved,) = moved_boxes(box, affine_maps(quiet, SIZE, (1.0, 1.0))[0], quiet.mirror[0].tolist(), SIZE)
    assert moved[:4].numpy() == pytest.approx(np.array(seen), abs=1.5)


def test_what_is_pushed_out_is_cut_and_then_left_out() -> None:
    kept, gone = 100 * LEAST_VISIBLE + 1, 100 * LEAST_VISIBLE - 1
    boxes = clipped(rows((kept - 100, 0, kept, 10), (gone - 100, 20, gone, 30)), SIZE)
    assert boxes.tolist() == [[0, 0, kept, 10, 1]]


def test_no_boxes_stay_none() -> None:
    assert moved_boxes(torch.zeros(0, 5), np.eye(2), (True, True), SIZE).shape == (0, 5)
    assert boxes_in_patch([], (0, 0), SIZE).shape == (0, 5)
