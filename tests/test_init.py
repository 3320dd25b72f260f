"""The public API: every name is there, nothing is imported before it is used."""

import subprocess
import sys

import pytest

import mdkd_auto

HEAVY = ("torch", "numpy", "scipy", "pandas", "msgspec", "mdkd_auto.core")


def test_every_name_of_the_api_is_importable() -> None:
    for name in mdkd_auto.__all__:
        assert getattr(mdkd_auto, name) is not None
        assert name in dir(mdkd_auto)


def test_names_are_the_functions_of_the_commands() -> None:
    from mdkd_auto import pipeline, preparation

    assert mdkd_auto.train is pipeline.train
    assert mdkd_auto.plan_and_preprocess is preparation.plan_and_preprocess


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'mdkd_auto' has no attribute 'nonsense'"):
        mdkd_auto.nonsense  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [("import mdkd_auto", HEAVY), ("from mdkd_auto import Root, plan_and_preprocess", ("torch",))],
)
def test_imports_on_first_use(statement: str, absent: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print(sorted(set({absent!r}) & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
