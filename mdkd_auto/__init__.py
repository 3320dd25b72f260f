"""mdkd_auto: multi-data-set cross-domain knowledge distillation for medical images, planned automatically.

The names below are the public API, one function per command. They are imported on first use, so that
``import mdkd_auto`` stays quick and planning does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "MdkdError",
    "PlanRequest",
    "Root",
    "Settings",
    "__version__",
    "ablate",
    "evaluate",
    "find_student",
    "load_settings",
    "plan_and_preprocess",
    "predict",
    "results",
    "tables",
    "train",
    "train_all_permutations",
    "verify",
]

if TYPE_CHECKING:
    from mdkd_auto.core.errors import MdkdError
    from mdkd_auto.core.paths import Root
    from mdkd_auto.core.settings import Settings, load_settings
    from mdkd_auto.pipeline import ablate, evaluate, find_student, predict, tables, train, train_all_permutations
    from mdkd_auto.planners.plan_request import PlanRequest
    from mdkd_auto.preparation import plan_and_preprocess, verify
    from mdkd_auto.report.results import results
else:  # hidden from type checkers, which would accept any name
    _MODULES = {
        "MdkdError": "core.errors",
        "PlanRequest": "planners.plan_request",
        "Root": "core.paths",
        "Settings": "core.settings",
        "ablate": "pipeline",
        "evaluate": "pipeline",
        "find_student": "pipeline",
        "load_settings": "core.settings",
        "plan_and_preprocess": "preparation",
        "predict": "pipeline",
        "results": "report.results",
        "tables": "pipeline",
        "train": "pipeline",
        "train_all_permutations": "pipeline",
        "verify": "preparation",
    }

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
