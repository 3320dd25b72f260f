"""Optional packages: which extra of the distribution installs them, and what to say when they are missing."""

import importlib.util
from typing import NamedTuple

from mdkd_auto.core.errors import MissingPackageError


class Extra(NamedTuple):
    """One of the extras in pyproject.toml."""

    name: str
    modules: tuple[str, ...]  # import names of its packages


AUGMENTATION = Extra("augmentation", ("batchgeneratorsv2",))
CLASSIFICATION = Extra("classification", ("captum",))
DETECTION = Extra("detection", ("faster_coco_eval", "torchmetrics", "transformers"))
EXTRAS = (AUGMENTATION, CLASSIFICATION, DETECTION)


def require(extra: Extra, purpose: str) -> None:
    """Raise MissingPackageError if a package of ``extra`` is not installed; ``purpose`` starts the message.

    Nothing is imported. Call it before a lazy import, and before hours of work that ends in one.
    """
    missing = [module for module in extra.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingPackageError(
            f"{purpose} needs {', '.join(missing)}, not installed here; run: pip install 'mdkd_auto[{extra.name}]'"
        )
