"""JSON schemas of the files that users write, for editors and scripts that check them before a run."""

from collections.abc import Callable
from typing import Any

import msgspec

from mdkd_auto.core.settings import Settings
from mdkd_auto.datasets.dataset_schema import dataset_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def settings_schema() -> dict[str, Any]:
    """The JSON schema of a file for ``--settings``. Ranges of numbers are checked on reading alone."""
    return msgspec.json.schema(Settings)


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {"dataset": dataset_schema, "settings": settings_schema}


def schema(name: str) -> dict[str, Any]:
    """The schema of ``name``, one of :data:`SCHEMAS`."""
    return {"$schema": DIALECT, **SCHEMAS[name]()}
