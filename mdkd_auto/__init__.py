"""mdkd_auto: multi-data-set cross-domain knowledge distillation for medical images, planned automatically."""

__version__ = "0.1.0"
