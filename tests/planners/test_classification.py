"""The input of whole images: by the rules, asked for, or kept."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Dataset, Fingerprint, IntTriple, Plan
from mdkd_auto.planners.classification import class_counts, plan_classification, plan_whole_images
from mdkd_auto.planners.group import plan_group
from mdkd_auto.planners.group_member import Member
from mdkd_auto.planners.plan_request import PlanRequest


def member(name: str, *shape: int) -> Member:
    shapes = np.tile(np.array(shape, dtype=np.float64), (40, 1))
    return Member(name, shape[0] == 1, np.ones((40, 3)), shapes, np.zeros(0), 0)


def input_of(*members: Member, request: PlanRequest | None = None) -> tuple[int, ...]:
    (part,) = plan_classification(members, request or PlanRequest(), None)
    return part.patch_size


@pytest.mark.parametrize(
    ("shape", "side"),
    [((1, 20, 30), 64), ((1, 64, 50), 64), ((1, 65, 50), 96), ((1, 100, 130), 160), ((1, 3000, 2000), 224)],
)
def test_the_longer_side_in_steps_of_32(shape: IntTriple, side: int) -> None:
    assert input_of(member("one", *shape)) == (side, side)


def test_volumes_are_smaller_and_plans_of_their_own() -> None:
    assert input_of(member("one", 100, 512, 512)) == (96, 96, 96)
    parts = plan_classification([member("flat", 1, 70, 70), member("deep", 30, 70, 70)], PlanRequest(), None)
    assert [(part.configuration, part.datasets) for part in parts] == [("2d", ("flat",)), ("3d_fullres", ("deep",))]


def test_the_smallest_data_set_decides_up_to_the_most() -> None:
    members = [member("large", 1, 600, 600), member("small", 1, 100, 90)]
    part = plan_whole_images("2d", members, PlanRequest(), None)
    assert part.patch_size == (128, 128)
    assert "the images of small have a median longer side of 100 voxels" in part.reasons[0].because
    assert plan_whole_images("2d", [member("large", 1, 600, 600)], PlanRequest(), None, most=512).patch_size == (
        512,
        512,
    )


@pytest.mark.parametrize(("size", "near"), [(100, "like 96 or 128"), (32, "like 64 or 96"), (0, "like 64 or 96")])
def test_other_sizes_are_refused(size: int, near: str) -> None:
    with pytest.raises(PlanError, match=f"input size {size}: expected a multiple of 32 from 64 on, {near}"):
        input_of(member("one", 1, 80, 80), request=PlanRequest(input_size=size))


def test_the_largest_size() -> None:
    assert input_of(member("one", 1, 80, 80), request=PlanRequest(input_size=4096)) == (4096, 4096)
    with pytest.raises(PlanError, match="input size 4128: expected 4096 at most along each of 2 axes"):
        input_of(member("one", 1, 80, 80), request=PlanRequest(input_size=4128))
    with pytest.raises(PlanError, match="input size 288: expected 256 at most along each of 3 axes"):
        input_of(member("one", 40, 80, 80), request=PlanRequest(input_size=288))


@pytest.fixture
def plan_of(dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]) -> Callable[..., Plan]:
    """The plan of one data set of pictures."""
    pictures = msgspec.structs.replace(dataset_of(1), task="classification")

    def make(side: int, count: int = 40, previous: Plan | None = None, **requested: Any) -> Plan:
        fingerprint = fingerprint_of(pictures, (1, side, side), None, lesion_mm=None, count=count)
        return plan_group([pictures], {pictures.name: fingerprint}, PlanRequest(**requested), previous)

    return make


def why(plan: Plan) -> str:
    return next(reason.because for reason in plan.configurations[0].reasons if reason.decision == "input")


def test_a_kept_input_is_not_said_to_be_asked_for(plan_of: Callable[..., Plan]) -> None:
    first = plan_of(90)
    assert why(plan_of(90, previous=first)) == why(first)  # the rules say the same
    grown = plan_of(120, previous=first)
    assert grown.configurations[0].patch_size == (96, 96)
    assert why(grown).startswith("kept from the earlier plan; the rules would now say 128 x 128: the images of")
    assert plan_of(120, previous=first, replan=True).configurations[0].patch_size == (128, 128)


def test_an_input_that_was_asked_for_is_kept_for_another_memory(plan_of: Callable[..., Plan]) -> None:
    asked = plan_of(90, input_size=128)
    assert why(asked) == "asked for"
    later = plan_of(90, previous=asked, memory_gb=16.0)
    assert later.configurations[0].patch_size == (128, 128)
    assert why(later).startswith("kept from the earlier plan; the rules would now say 96 x 96")
    assert plan_of(90, previous=asked, input_size=64).configurations[0].patch_size == (64, 64)


def test_a_batch_stays_with_its_input_and_memory(plan_of: Callable[..., Plan]) -> None:
    """More cases alone change no run that is finished."""
    first = plan_of(90, count=200)
    assert first.configurations[0].batch_size == 10  # 5 % of the cases
    grown = plan_of(90, count=260, previous=first)
    assert grown.configurations[0].batch_size == 10
    (reason,) = [reason for reason in grown.configurations[0].reasons if reason.decision == "batch kept"]
    assert reason.because.startswith("the rules would now say 13 (5 % of the voxels")
    for changes in ({"replan": True}, {"memory_gb": 16.0}, {"input_size": 64}):
        assert plan_of(90, count=260, previous=first, **changes).configurations[0].batch_size == 13


def test_the_sizes_of_the_images_are_said(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]
) -> None:
    """Of each side the smallest and the largest."""
    made = fingerprint_of(dataset_of(1), (1, 30, 50), None, lesion_mm=None, count=3)
    shapes = ((1, 30, 50), (1, 80, 20), (1, 40, 40))
    cases = tuple(msgspec.structs.replace(case, shape=shape) for case, shape in zip(made.cases, shapes, strict=True))
    said = class_counts(msgspec.structs.replace(made, cases=cases, classes={"a": 2, "b": 1}, patients=3))
    assert said.value == "a 2, b 1"
    assert said.because.endswith("images of 30 x 20 to 80 x 50 voxels")
