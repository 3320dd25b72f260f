"""The group plan: who takes part, what is kept, what is said."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.files import to_record
from mdkd_auto.core.records import Plan
from mdkd_auto.planners.group import plan_group
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_text import describe_changes, plan_text
from mdkd_auto.planners.topology import total_stride

Builder = Callable[..., Any]


def test_slices_and_volumes_share_a_2d_plan(dataset_of: Builder, fingerprint_of: Builder) -> None:
    flat, thick = dataset_of(11), dataset_of(14)
    fingerprints = {
        flat.name: fingerprint_of(flat, (1, 256, 256), None, lesion_mm=20.0, count=500, extremes=(0.0, 255.0)),
        thick.name: fingerprint_of(thick, (60, 512, 512), (3.0, 0.8, 0.8)),
    }
    plan = plan_group([flat, thick], fingerprints, PlanRequest())
    assert plan.group == "CT_segmentation"
    assert plan.configuration("2d").datasets == (flat.name, thick.name)
    assert plan.configuration("2d").spacing_mm == pytest.approx(((1.5625 + 0.8) / 2,) * 2, abs=1e-4)
    assert plan.configuration("3d_fullres").datasets == (thick.name,)
    assert flat.name in plan.configuration("3d_fullres").reasons[0].because
    assert plan.dataset(flat.name).normalisation.scheme == "zscore"
    assert plan.dataset(thick.name).normalisation.scheme == "ct"
    assert plan.dataset(thick.name).normalisation.upper == 200.0
    for part in plan.configurations:
        steps = total_stride(part.topology)
        assert all(edge % step == 0 for edge, step in zip(part.patch_size, steps, strict=True))
    assert to_record(msgspec.to_builtins(plan), Plan, "here") == plan
    text = plan_text(plan)
    assert "8-bit grey values, not Hounsfield units" in text
    assert "256 pixels (median longer side) taken as 400 mm" in text


def test_only_slices_give_no_volume_configuration(dataset_of: Builder, fingerprint_of: Builder) -> None:
    flat = dataset_of(11)
    plan = plan_group([flat], {flat.name: fingerprint_of(flat, (1, 64, 64), None)}, PlanRequest())
    assert [part.configuration for part in plan.configurations] == ["2d"]


def test_the_shared_channel_wins_and_an_override_wins_over_it(dataset_of: Builder, fingerprint_of: Builder) -> None:
    first, second = dataset_of(1, ("FLAIR", "T1"), "MRI"), dataset_of(2, ("t1",), "MRI")
    fingerprints = {each.name: fingerprint_of(each, (60, 64, 64), (1.0, 1.0, 1.0)) for each in (first, second)}
    plan = plan_group([first, second], fingerprints, PlanRequest())
    assert (plan.dataset(first.name).channel, plan.dataset(second.name).channel) == (1, 0)
    for wanted in ("0", "flair"):
        assert (
            plan_group([first, second], fingerprints, PlanRequest(channels={first.name: wanted}))
            .dataset(first.name)
            .channel
            == 0
        )
    with pytest.raises(PlanError, match="no channel T2; its channels: 0 FLAIR, 1 T1"):
        plan_group([first, second], fingerprints, PlanRequest(channels={first.name: "T2"}))
    with pytest.raises(PlanError, match="does not hold"):
        plan_group([first, second], fingerprints, PlanRequest(channels={"Dataset009_Other": "T2"}))


def test_much_cropped_images_are_normalised_inside_their_mask(dataset_of: Builder, fingerprint_of: Builder) -> None:
    brain = dataset_of(1, ("T1",), "MRI")
    plan = plan_group(
        [brain], {brain.name: fingerprint_of(brain, (60, 64, 64), (1.0, 1.0, 1.0), nonzero=0.5)}, PlanRequest()
    )
    assert plan.dataset(brain.name).normalisation.masked


def test_a_close_spacing_is_kept_and_a_far_one_is_not(dataset_of: Builder, fingerprint_of: Builder) -> None:
    first, second = dataset_of(1), dataset_of(2)
    fingerprints = {first.name: fingerprint_of(first, (60, 200, 200), (3.0, 1.0, 1.0))}
    old = plan_group([first], fingerprints, PlanRequest())
    fingerprints[second.name] = fingerprint_of(second, (60, 300, 300), (3.0, 0.8, 0.8), intensities=(-90, 190, 1, 2))
    new = plan_group([first, second], fingerprints, PlanRequest(), previous=old)
    for name in ("2d", "3d_fullres"):
        kept, before = new.configuration(name), old.configuration(name)
        assert (kept.spacing_mm, kept.patch_size, kept.batch_size) == (
            before.spacing_mm,
            before.patch_size,
            before.batch_size,
        )
        assert kept.topology == before.topology
        assert kept.datasets == (first.name, second.name)
        assert kept.reasons[0].decision == "kept from the earlier plan"
        assert "--replan" in kept.reasons[0].because
    assert new.dataset(first.name) == old.dataset(first.name)
    assert plan_group([first, second], fingerprints, PlanRequest(), previous=new) == new
    changes = describe_changes(old, new)
    assert changes[0] == f"{second.name}: added to the group"
    assert all("data sets" in change for change in changes[1:])

    forced = plan_group([first, second], fingerprints, PlanRequest(replan=True), previous=old)
    assert forced.configuration("2d").spacing_mm == (0.9, 0.9)
    assert any(change.startswith("2d: spacing 1 x 1 mm -> 0.9 x 0.9 mm") for change in describe_changes(old, forced))

    fingerprints[second.name] = fingerprint_of(second, (60, 300, 300), (3.0, 0.4, 0.4))
    far = plan_group([first, second], fingerprints, PlanRequest(), previous=old)
    assert far.configuration("2d").spacing_mm == (0.7, 0.7)


def test_normalisation_is_kept_within_a_tenth_of_a_deviation(dataset_of: Builder, fingerprint_of: Builder) -> None:
    scan = dataset_of(1)
    old = plan_group([scan], {scan.name: fingerprint_of(scan, (60, 64, 64), (1.0, 1.0, 1.0))}, PlanRequest())
    for shift, kept in ((4.0, True), (6.0, False)):
        moved = fingerprint_of(scan, (60, 64, 64), (1.0, 1.0, 1.0), intensities=(-100, 200, 40 + shift, 50))
        new = plan_group([scan], {scan.name: moved}, PlanRequest(), previous=old)
        assert (new.dataset(scan.name) == old.dataset(scan.name)) is kept
        assert any("normalisation kept" in reason.decision for reason in new.reasons) is kept
        assert bool(describe_changes(old, new)) is not kept


def test_other_memory_plans_anew(dataset_of: Builder, fingerprint_of: Builder) -> None:
    scan = dataset_of(1)
    fingerprints = {scan.name: fingerprint_of(scan, (300, 300, 300), (1.0, 1.0, 1.0))}
    old = plan_group([scan], fingerprints, PlanRequest())
    new = plan_group([scan], fingerprints, PlanRequest(memory_gb=24.0), previous=old)
    assert new.configuration("3d_fullres").patch_size > old.configuration("3d_fullres").patch_size
    assert describe_changes(old, new)[0] == "memory: 8 -> 24 GB"
    assert describe_changes(None, new) == ("CT_segmentation: planned for the first time",)


def test_what_cannot_be_planned_is_refused(dataset_of: Builder, fingerprint_of: Builder) -> None:
    scan, brain = dataset_of(1), dataset_of(2, ("T1",), "MRI")
    with pytest.raises(PlanError, match="at least one"):
        plan_group([], {}, PlanRequest())
    with pytest.raises(PlanError, match="CT_segmentation, MRI_segmentation"):
        plan_group([scan, brain], {}, PlanRequest())
    with pytest.raises(PlanError, match="no usable case"):
        plan_group([scan], {scan.name: fingerprint_of(scan, (1, 8, 8), None, count=0)}, PlanRequest())
    with pytest.raises(PlanError, match="memory_gb"):
        plan_group([scan], {scan.name: fingerprint_of(scan, (1, 8, 8), None)}, PlanRequest(memory_gb=0.0))


def test_a_spacing_asked_for_wins(dataset_of: Builder, fingerprint_of: Builder) -> None:
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (60, 512, 512), (3.0, 0.8, 0.8))}
    plan = plan_group([thick], fingerprints, PlanRequest(spacing_mm=(4.0, 1.6, 1.6)))
    assert plan.configuration("2d").spacing_mm == (1.6, 1.6)
    assert plan.configuration("2d").patch_size == (256, 256)
    assert plan.configuration("3d_fullres").spacing_mm == (4.0, 1.6, 1.6)
    assert "asked for; the rules would say 0.8 x 0.8 mm" in plan_text(plan)
    # within 25 % an earlier plan is kept, but not against what is asked for
    again = plan_group([thick], fingerprints, PlanRequest(spacing_mm=(4.0, 1.5, 1.5)), previous=plan)
    assert again.configuration("2d").spacing_mm == (1.5, 1.5)
    assert plan_group([thick], fingerprints, PlanRequest(spacing_mm=(4.0, 1.5, 1.5)), previous=again) == again


def test_a_spacing_that_leaves_no_image_is_refused(dataset_of: Builder, fingerprint_of: Builder) -> None:
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (60, 512, 512), (3.0, 0.8, 0.8))}
    with pytest.raises(PlanError, match=r"a spacing of 200 x 200 mm leaves images of 2 x 2 voxels.*0\.8 mm"):
        plan_group([thick], fingerprints, PlanRequest(spacing_mm=(200.0, 200.0, 200.0)))


def test_a_patch_asked_for_wins(dataset_of: Builder, fingerprint_of: Builder) -> None:
    """100 voxels are pooled to 50, 25, 13, 7 and so padded to a multiple of 16; 24 of z to 12, 6 or a multiple of 4."""
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (60, 512, 512), (0.8, 0.8, 0.8))}
    rules = plan_group([thick], fingerprints, PlanRequest())
    plan = plan_group([thick], fingerprints, PlanRequest(patch_size=(24, 100, 128)))
    flat, deep = plan.configuration("2d"), plan.configuration("3d_fullres")
    assert (flat.patch_size, flat.topology.strides) == ((112, 128), ((1, 1), *((2, 2),) * 4, (1, 2)))
    assert deep.patch_size == (24, 112, 128)
    assert flat.batch_size > rules.configuration("2d").batch_size
    assert flat.spacing_mm == rules.configuration("2d").spacing_mm
    assert "100 x 128 asked for; padded to multiples of 16 x 32" in plan_text(plan)
    # kept by a plan that asks for none, but not against one that asks for another
    assert plan_group([thick], fingerprints, PlanRequest(), previous=plan).configuration("2d").patch_size == (112, 128)
    again = plan_group([thick], fingerprints, PlanRequest(patch_size=(24, 64, 64)), previous=plan)
    assert again.configuration("2d").patch_size == (64, 64)


def test_a_patch_alone_keeps_the_spacing(dataset_of: Builder, fingerprint_of: Builder) -> None:
    """What is preprocessed stays; a plan with another spacing than the rules' may have come of other data."""
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (60, 512, 512), (0.8, 0.8, 0.8))}
    old = plan_group([thick], fingerprints, PlanRequest(spacing_mm=(0.9, 0.9, 0.9)))
    plan = plan_group([thick], fingerprints, PlanRequest(patch_size=(32, 64, 64)), previous=old)
    assert plan.configuration("2d").spacing_mm == (0.9, 0.9)
    assert plan.configuration("3d_fullres").spacing_mm == (0.9, 0.9, 0.9)
    assert plan.configuration("3d_fullres").patch_size == (32, 64, 64)
    assert "only another patch is asked for; the rules would say 0.8 x 0.8 mm" in plan_text(plan)
    anew = plan_group([thick], fingerprints, PlanRequest(patch_size=(32, 64, 64), replan=True), previous=old)
    assert anew.configuration("2d").spacing_mm == (0.8, 0.8)


def test_a_small_patch_has_no_more_than_the_paper_s_batch(dataset_of: Builder, fingerprint_of: Builder) -> None:
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (60, 512, 512), (0.8, 0.8, 0.8))}
    plan = plan_group([thick], fingerprints, PlanRequest(patch_size=(8, 16, 16)))
    assert [part.batch_size for part in plan.configurations] == [16, 16]


def test_a_patch_that_does_not_fit_is_refused(dataset_of: Builder, fingerprint_of: Builder) -> None:
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (60, 512, 512), (0.8, 0.8, 0.8))}
    words = r"3d_fullres: a patch of 256 x 256 x 256 voxels needs about [\d.]+ GB in batches of 2"
    with pytest.raises(PlanError, match=words):
        plan_group([thick], fingerprints, PlanRequest(patch_size=(256, 256, 256)))
    assert plan_group([thick], fingerprints, PlanRequest(memory_gb=80.0, patch_size=(256, 256, 256)))
    with pytest.raises(PlanError, match=r"2d: a patch of 4 x 4 voxels is too small for a network"):
        plan_group([thick], fingerprints, PlanRequest(patch_size=(4, 4, 4)))


def test_a_patch_that_is_mostly_padding_is_said(dataset_of: Builder, fingerprint_of: Builder) -> None:
    thick = dataset_of(14)
    fingerprints = {thick.name: fingerprint_of(thick, (20, 512, 512), (5.0, 0.8, 0.8))}
    plan = plan_group([thick], fingerprints, PlanRequest(memory_gb=16.0, patch_size=(128, 128, 128)))
    reasons = {part.configuration: " ".join(reason.because for reason in part.reasons) for part in plan.configurations}
    assert "most of a patch will be padding" in reasons["3d_fullres"]
    assert "padding" not in reasons["2d"].replace("padded", "")
