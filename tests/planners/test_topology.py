"""Pooling and kernels, worked by hand; every patch divisible by what pools it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Topology
from mdkd_auto.planners.memory import (
    MIN_BATCH,
    REFERENCE_ELEMENTS,
    Fit,
    choose_batch,
    feature_map_elements,
    fit_patch,
)
from mdkd_auto.planners.topology import initial_patch, plan_topology, total_stride


def test_a_square_of_256_is_pooled_six_times() -> None:
    topology = plan_topology((256, 256), (1.0, 1.0))
    assert topology.strides == ((1, 1),) + ((2, 2),) * 6  # 256 -> 4
    assert topology.features == (32, 64, 128, 256, 512, 512, 512)
    assert set(topology.kernel_sizes) == {(3, 3)}


def test_a_coarse_axis_is_pooled_and_convolved_later() -> None:
    # z 4 mm, in-plane 1 mm: in-plane pools at 1 and 2 mm; at 4 mm z is level. 16 slices pool to 4.
    topology = plan_topology((16, 64, 64), (4.0, 1.0, 1.0))
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert topology.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert topology.features == (32, 64, 128, 256, 320)


def test_estimate_counts_encoder_and_decoder() -> None:
    topology = Topology(features=(2, 4), kernel_sizes=((3, 3), (3, 3)), strides=((1, 1), (2, 2)))
    # full resolution 64 pixels: 2 + 3 maps of 2 features; bottleneck 16 pixels: 2 maps of 4 features
    assert feature_map_elements((8, 8), topology) == 5 * 2 * 64 + 2 * 4 * 16


def test_initial_patch_is_a_cube_in_mm_clipped_to_the_median() -> None:
    assert initial_patch((2.0, 1.0, 1.0), (1000, 1000, 1000)) == (161, 323, 323)
    assert initial_patch((2.0, 1.0, 1.0), (40, 1000, 100)) == (40, 323, 100)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(2, 3).flatmap(
        lambda axes: st.tuples(
            st.tuples(*[st.floats(0.3, 6.0)] * axes), st.tuples(*[st.integers(1, 700)] * axes), st.floats(2.0, 80.0)
        )
    )
)
def test_every_patch_fits_and_is_divisible(given_: tuple[tuple[float, ...], tuple[int, ...], float]) -> None:
    spacing, median, memory = given_
    fit, _ = fit_patch(spacing, median, memory)
    steps = total_stride(fit.topology)
    assert all(edge % step == 0 and edge >= step for edge, step in zip(fit.patch_size, steps, strict=True))
    assert fit.elements <= REFERENCE_ELEMENTS[len(spacing)] * memory / 8
    topology = fit.topology
    assert len(topology.features) == len(topology.strides) == len(topology.kernel_sizes)
    assert set(topology.strides[0]) == {1}
    for earlier, later in zip(topology.kernel_sizes, topology.kernel_sizes[1:], strict=False):
        assert all(a <= b for a, b in zip(earlier, later, strict=True))  # once 3, always 3
    for kernel, stride in zip(topology.kernel_sizes, topology.strides[1:], strict=False):
        pooled_flat = [axis for axis in range(len(kernel)) if stride[axis] == 2 and kernel[axis] == 1]
        finest_is_short = any(s == 1 and k == 3 for s, k in zip(stride, kernel, strict=True))
        assert not pooled_flat or finest_is_short  # an axis is pooled unconvolved only where the finer are used up
    batch, _ = choose_batch(fit, {"a": 1e6, "b": 1e9}, memory)
    assert batch >= MIN_BATCH[len(spacing)]


def test_more_memory_gives_no_smaller_patch() -> None:
    small, large = (fit_patch((1.0, 1.0, 1.0), (200, 200, 200), memory)[0] for memory in (8.0, 24.0))
    assert sorted(small.patch_size) == [128, 128, 160]
    assert all(a <= b for a, b in zip(small.patch_size, large.patch_size, strict=True))


def test_too_little_memory_is_said() -> None:
    with pytest.raises(PlanError, match="memory_gb"):
        fit_patch((1.0, 1.0), (512, 512), 1e-6)


def test_batch_obeys_memory_share_and_paper() -> None:
    fit = Fit((256, 256), plan_topology((256, 256), (1.0, 1.0)), 20e6)
    voxels = 256.0 * 256.0
    assert choose_batch(fit, {"a": 1000 * voxels}, 8.0)[0] == 16  # the paper's
    share = {"a": 1000 * voxels, "b": 200 * voxels, "c": 220 * voxels}
    assert choose_batch(fit, share, 8.0)[0] == 11  # 5 % of c, the median
    assert choose_batch(fit, {"a": 1000 * voxels}, 1.0)[0] == 6  # 12 x 85e6 / 8 / 20e6
    batch, reason = choose_batch(fit, {"a": 20 * voxels}, 8.0)
    assert batch == 4
    assert "would give 1" in reason.because


def test_a_patch_says_whether_memory_made_it_smaller() -> None:
    (_, fits), (_, smaller) = (fit_patch((1.0, 1.0), (512, 512), memory) for memory in (64.0, 1.0))
    assert "would not fit" not in fits.because
    assert "512 x 512 would not fit 1 GB" in smaller.because
