from types import SimpleNamespace

import pytest
import torch

from mdkd_auto.networks.faster_rcnn import FasterRCNNHead, ResNetEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.fine_tuned import continue_from, rows_of_outputs

pytestmark = pytest.mark.usefixtures("one_thread")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks of one kind have the same weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_fine_tuned_detector_takes_the_background_and_the_classes_by_their_names() -> None:
    """Faster R-CNN: a row of scores and four of a box for each class, the background's first."""

    def head(classes: int) -> FasterRCNNHead:
        return FasterRCNNHead("faster_rcnn_small", encoder.channels, encoder.strides, classes, (8, 16, 32, 64), (1.0,))

    encoder = ResNetEncoder("faster_rcnn_small")
    model, trained = Model(encoder, head(2)), Model(ResNetEncoder("faster_rcnn_small"), head(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = rows_of_outputs(SimpleNamespace(head=lambda count, _: head(count)), encoder, 2)  # type: ignore[arg-type]
    box = "regions.box_predictor.bbox_pred"
    assert {name: count for name, count in rows.items() if "weight" in name} == {
        "regions.box_predictor.cls_score.weight": 1,
        f"{box}.weight": 4,
    }
    continue_from(model, trained, rows, ("new", "b"), ("a", "b", "c"))
    own, theirs = model.state_dict()[f"head.{box}.weight"], trained.state_dict()[f"head.{box}.weight"]
    torch.testing.assert_close(own, torch.cat([theirs[:4], before[f"head.{box}.weight"][4:8], theirs[8:12]]))
    assert same(model.encoder, trained.encoder)
