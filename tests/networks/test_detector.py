import pytest
import torch

from mdkd_auto.networks.detector import embedding_distance


@pytest.mark.parametrize(
    ("ours", "theirs", "distance"),
    [([3.0, 4.0], [3.0, 4.0], 0.0), ([1.0, 0.0], [-5.0, 0.0], 4.0), ([2.0, 0.0], [0.0, 7.0], 2.0)],
)
def test_the_distance_of_embeddings_ignores_their_scale(
    ours: list[float], theirs: list[float], distance: float
) -> None:
    """Eq. (23) at a root mean square of 1: 2 - 2 cos, so opposite directions give 4."""
    found = embedding_distance(torch.tensor([ours]), torch.tensor([theirs]))
    assert found.item() == pytest.approx(distance, abs=1e-6)


def test_its_gradient_reaches_the_student_alone_where_the_teacher_is_frozen() -> None:
    ours, theirs = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    embedding_distance(ours, theirs).backward()
    assert ours.grad is not None
    assert torch.isfinite(ours.grad).all()
