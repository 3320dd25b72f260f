"""Settings that several stages depend on.

A stage names every setting that its result depends on. One that no stage names (device, checkpoint_minutes) changes no
result, except those that a job holds itself: network, width, pretrained weights, label_fraction and fold.
"""

COMMON = (
    "epochs",
    "iterations_per_epoch",
    "validation_batches",
    "early_stopping_epochs",
    "learning_rate",
    "weight_decay",
    "gradient_clip_norm",
    "best_by",
    "plateau_factor",
    "plateau_epochs",
    "batch_size",
    "task_loss",
    "keep_classes",
    "lesion_fraction",
    "augment",
    "augmentation",
    "seed",
    "precision",
)
DISTILLATION = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "temperature_start",
    "temperature_decay",
    "temperature_minimum",
    "warmup_epochs",
    "ramp_epochs",
    "ramp",
    "contrastive_centred",
)
