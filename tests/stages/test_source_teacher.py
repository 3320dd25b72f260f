import math

import pytest
import torch
from small_segmentation import SOURCE, TARGET, TASK, both, gradients
from torch import nn

from mdkd_auto.core.settings import Settings
from mdkd_auto.losses.domain import domain_loss
from mdkd_auto.networks.discriminator import Discriminator, reversal_strength
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.source_teacher import SourceTeacherObjective

pytestmark = pytest.mark.usefixtures("one_thread")


def source_teacher(settings: Settings) -> SourceTeacherObjective:
    model = Model(TASK.encoder(), TASK.head(3))
    return SourceTeacherObjective(model, Discriminator(4), TASK, SOURCE, TARGET, settings)


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_source_teacher_adds_up(weight: float) -> None:
    """Eq. (2); r = 0 leaves the target's labels out, also of validation."""
    objective = source_teacher(Settings(target_label_weight=weight))
    (terms,) = objective.losses(both(), 0.3)
    expected = terms["source"] + terms["domain"] + (weight * terms["target"] if weight else 0)
    torch.testing.assert_close(terms["total"], expected)
    assert set(terms) == {"total", "source", "domain"} | ({"target"} if weight else set())
    assert tuple(objective.validated_on()) == ((TARGET,) if weight else (SOURCE,))
    assert objective.batch_fractions == {SOURCE: 0.5, TARGET: 0.5}


def test_each_data_set_has_its_own_output_layer() -> None:
    objective = source_teacher(Settings())
    batches = both()
    (terms,) = objective.losses(batches, 0.3)
    layer = [module for module in objective.model.head.modules() if isinstance(module, nn.Conv2d)][-1]
    assert layer.out_channels == 3
    for name, own, foreign in (("source", slice(0, 2), slice(2, 3)), ("target", slice(2, 3), slice(0, 2))):
        for gradient in gradients(terms[name], layer):
            assert gradient[own].abs().amax() > 0
            assert gradient[foreign].abs().amax() == 0
    for dataset, term in ((SOURCE, "source"), (TARGET, "target")):
        torch.testing.assert_close(objective.validate(dataset, batches[dataset])[0], terms[term])
    output = objective.model(batches[SOURCE].images)
    torch.testing.assert_close(TASK.loss(output[:, :2], batches[SOURCE], SOURCE), terms["source"])


def test_without_target_labels_nothing_of_them_is_learned() -> None:
    objective = source_teacher(Settings(target_label_weight=0.0))
    batches = both()
    other = {**batches, TARGET: batches[TARGET]._replace(labels=1 - batches[TARGET].labels)}
    (first,), (second,) = objective.losses(batches, 0.3), objective.losses(other, 0.3)
    torch.testing.assert_close(first["total"], second["total"])


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.5, 1.0])
def test_the_encoder_ascends_the_domain_loss(progress: float) -> None:
    """Its gradient is -lambda(p) times the one without reversal; the discriminator's is untouched."""
    objective = source_teacher(Settings())
    batches = both()
    (terms,) = objective.losses(batches, progress)

    def plain() -> torch.Tensor:
        logits = [objective.discriminator(objective.model.features(batches[d].images)[-1]) for d in (SOURCE, TARGET)]
        return domain_loss(*logits)

    strength = 2 / (1 + math.exp(-10 * progress)) - 1
    assert reversal_strength(progress) == pytest.approx(strength)
    without = plain()
    torch.testing.assert_close(terms["domain"], without)
    for ours, reference in zip(
        gradients(terms["domain"], objective.model.encoder), gradients(without, objective.model.encoder), strict=True
    ):
        torch.testing.assert_close(ours, -strength * reference)
    for ours, reference in zip(
        gradients(terms["domain"], objective.discriminator), gradients(without, objective.discriminator), strict=True
    ):
        torch.testing.assert_close(ours, reference)


def test_the_reversed_gradient_against_finite_differences() -> None:
    objective = source_teacher(Settings())
    batches = both()
    weight = next(objective.model.encoder.parameters())
    (terms,) = objective.losses(batches, 0.1)
    (gradient,) = torch.autograd.grad(terms["domain"], weight)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight.view(-1)[3] += step
            (changed,) = objective.losses(batches, 0.1)
            values.append(changed["domain"].item())
            weight.view(-1)[3] -= step
    slope = (values[0] - values[1]) / 2e-5
    assert abs(slope) > 1e-8
    assert gradient.view(-1)[3].item() == pytest.approx(-reversal_strength(0.1) * slope, rel=1e-4)


def test_the_reversal_strength_is_logged() -> None:
    assert list(source_teacher(Settings()).schedules(0.1).values()) == [reversal_strength(0.1)]
