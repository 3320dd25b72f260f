"""Who augments a batch; what the transforms do: test_augmentation.py, test_library_augmentation.py."""

import sys

import pytest
import torch

from mdkd_auto.batches.augmentation import Source
from mdkd_auto.batches.augmenter import Augmenter, augmenter_of
from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.errors import MissingPackageError
from mdkd_auto.core.settings import Settings

SIZE = (40, 40)
CPU = torch.device("cpu")
CHOICES = {
    "built-in": Settings(),
    "batchgenerators": Settings(augmentation="batchgenerators"),
    "nothing": Settings(augment=False),
}


def augmenter(name: str) -> Augmenter:
    return augmenter_of(CHOICES[name], SIZE, (1.0, 1.0), False)


def batch_for(made_by: Augmenter, update: int, count: int = 24) -> Batch:
    """A bright rectangle with its box, as the sampler reads it: with what lies around where a sample is turned."""
    wide = torch.zeros((80, 80))
    wide[34:50, 36:46] = 4.0
    label = (wide > 0).to(torch.int16)
    maps = made_by.maps(update, 0, count) or [None] * count
    turned = [index for index, matrix in enumerate(maps) if matrix is not None]
    sources = tuple(Source(index, wide, label, (0, 1), (0.0, 0.0)) for index in turned)
    images = torch.stack([wide[20:60, 20:60][None]] * count)
    box = torch.tensor([[16.0, 14.0, 26.0, 30.0, 1.0]])
    return Batch(images, torch.stack([label[20:60, 20:60]] * count), ("a",) * count, sources, (box,) * count)


@pytest.mark.parametrize("name", ["built-in", "batchgenerators"])
def test_boxes_move_with_their_objects(name: str) -> None:
    made_by = augmenter(name)
    turned = 0
    for update in range(4):
        batch = batch_for(made_by, update)
        turned += len(batch.sources)
        made = made_by.augment(batch, update, 0, CPU)
        assert made.images.shape == (24, 1, *SIZE)
        for label, (box,) in zip(made.labels, made.boxes, strict=True):
            rows, columns = torch.nonzero(label == 1, as_tuple=True)
            middle = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
            torch.testing.assert_close((box[:2] + box[2:4]) / 2, middle, rtol=0, atol=1.0)
    assert turned > 10


@pytest.mark.parametrize("name", list(CHOICES))
def test_a_batch_depends_on_seed_update_and_data_set_alone(name: str) -> None:
    made_by, other = augmenter(name), augmenter(name)
    batch = batch_for(made_by, 3)
    made = made_by.augment(batch, 3, 0, CPU)
    made_by.augment(batch_for(made_by, 4), 4, 0, CPU)
    again = other.augment(batch_for(other, 3), 3, 0, CPU)
    assert torch.equal(made.images, again.images)
    assert torch.equal(made.labels, again.labels)
    following = made_by.augment(batch_for(made_by, 4), 4, 0, CPU)
    assert torch.equal(made.images, following.images) == (name == "nothing")


def test_without_augmentation_a_batch_is_as_it_is_read() -> None:
    made_by = augmenter("nothing")
    assert made_by.maps(0, 0, 4) is None
    batch = batch_for(made_by, 0)
    assert torch.equal(made_by.augment(batch, 0, 0, CPU).images, batch.images)


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "batchgeneratorsv2", None)
    with pytest.raises(MissingPackageError, match=r"needs batchgeneratorsv2.*pip install 'mdkd_auto\[augmentation\]'"):
        augmenter("batchgenerators")
