import pytest
import torch
from small_segmentation import SOURCE, TARGET, TASK, batch, both, gradients

from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.stages.multi_head import MultiHeadObjective

pytestmark = pytest.mark.usefixtures("one_thread")


def test_parts_of_the_multi_head_model_add_up_to_the_mean_loss() -> None:
    encoder = TASK.encoder()
    model = MultiHeadModel(encoder, {TARGET: TASK.head(1), SOURCE: TASK.head(2)})
    objective = MultiHeadObjective(model, TASK, (TARGET, SOURCE))
    batches = both()
    for terms in objective.losses(batches, 0.0):
        terms["total"].backward()
    accumulated = [parameter.grad for parameter in model.parameters()]
    losses = {name: TASK.loss(model.of(name)(drawn.images), drawn, name) for name, drawn in batches.items()}
    mean = torch.stack(list(losses.values())).mean()
    for ours, reference in zip(accumulated, gradients(mean, model), strict=True):
        torch.testing.assert_close(ours, reference)
    parts = list(objective.losses(batches, 0.0))
    assert [set(part) for part in parts] == [{"total", SOURCE}, {"total", TARGET}]
    for part, name in zip(parts, batches, strict=True):
        torch.testing.assert_close(part[name], losses[name])
    torch.testing.assert_close(sum(part["total"] for part in parts), mean)
    assert objective.batch_fractions == {TARGET: 1.0, SOURCE: 1.0}
    assert tuple(objective.validated_on()) == (TARGET, SOURCE)


def test_a_head_never_learns_from_another_data_set() -> None:
    model = MultiHeadModel(TASK.encoder(), {TARGET: TASK.head(1), SOURCE: TASK.head(2)})
    objective = MultiHeadObjective(model, TASK, (TARGET, SOURCE))
    (terms,) = objective.losses({TARGET: batch()}, 0.0)
    assert all(gradient.abs().sum() == 0 for gradient in gradients(terms["total"], model.of(SOURCE).head))
    assert any(gradient.abs().sum() > 0 for gradient in gradients(terms["total"], model.of(TARGET).head))
    assert model.of(TARGET).encoder is model.of(SOURCE).encoder
