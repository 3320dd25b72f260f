"""Made-up detection data sets: read without a problem, boxes around what is bright, always the same."""

import filecmp
from pathlib import Path

import numpy as np
import pytest

from mdkd_auto.datasets.raw_folder import find_datasets
from mdkd_auto.demo.phantoms import OBJECTS, SCENES, Scenes, scene, write_detection_datasets, write_new_scenes


def test_they_are_data_sets(tmp_path: Path) -> None:
    write_detection_datasets(tmp_path, cases=6)
    datasets, problems = find_datasets(tmp_path)
    assert problems == []
    assert [dataset.name for dataset in datasets] == [look.name for look in SCENES]
    assert {dataset.group for dataset in datasets} == {"CT_detection"}
    for dataset, look in zip(datasets, SCENES, strict=True):
        assert tuple(dataset.labels) == look.classes
        assert [len(case.boxes or ()) for case in dataset.cases] == [*OBJECTS, OBJECTS[0]]
        for case in dataset.cases:
            for box in case.boxes or ():
                assert 0 <= box.x < box.x + box.width <= look.size[1]
                assert 0 <= box.y < box.y + box.height <= look.size[0]


@pytest.mark.parametrize("look", SCENES)
def test_boxes_are_where_it_is_bright(look: Scenes) -> None:
    clear = look._replace(noise=0.0, contrast=120.0)
    for seed in range(8):
        pixels, boxes, classes = scene(clear, 3, np.random.default_rng(seed))
        assert len(boxes) == len(classes) <= 3
        bright = pixels > 150
        for x1, y1, x2, y2 in boxes:
            y, x = np.nonzero(bright[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1])
            extent = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) + [int(x1), int(y1)] * 2
            assert np.abs(extent - [x1, y1, x2, y2]).max() < 2
            bright[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = False
        assert not bright.any()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_detection_datasets(tmp_path / name, SCENES[1:2], cases=3)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all(filecmp.cmp(tmp_path / "one" / file, tmp_path / "two" / file, shallow=False) for file in files)


def test_new_scenes_come_without_boxes(tmp_path: Path) -> None:
    write_new_scenes(tmp_path, SCENES[0], cases=2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new_000_0000.png", "new_001_0000.png"]
