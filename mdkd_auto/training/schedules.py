"""Schedules of the distillation terms. Epochs refer to a run of 300; shorter runs scale them in proportion."""

import math

from mdkd_auto.core.settings import REFERENCE_EPOCHS, Settings


def curriculum(progress: float, settings: Settings) -> float:
    """w(e) of eq. (9): 0 during warm-up, then a linear or half-cosine ramp to 1.

    ``progress`` is the fraction of updates done.
    """
    epoch = progress * REFERENCE_EPOCHS
    if epoch < settings.warmup_epochs:
        return 0.0
    if settings.ramp_epochs <= 0:
        return 1.0
    share = min(1.0, (epoch - settings.warmup_epochs) / settings.ramp_epochs)
    return share if settings.ramp == "linear" else (1 - math.cos(math.pi * share)) / 2


def contrastive_weight(progress: float, settings: Settings) -> float:
    """beta(e): linear from 0 to ``settings.beta`` over the run."""
    return settings.beta * progress


def temperature(progress: float, settings: Settings) -> float:
    """tau of eq. (11): exponential decay to a floor."""
    decayed = settings.temperature_start * settings.temperature_decay ** (progress * REFERENCE_EPOCHS)
    return max(settings.temperature_minimum, decayed)
