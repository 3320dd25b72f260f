"""Ablations by name: their columns, and what each is compared with."""

import pytest

from mdkd_auto.errors import SettingsError
from mdkd_auto.experiments.ablations import ABLATIONS, find_ablation
from mdkd_auto.settings import Settings, replace

SOURCES = ("Dataset902_FlatFaint", "Dataset903_RaggedDark")


@pytest.mark.parametrize("name", ABLATIONS)
def test_columns(name: str) -> None:
    ablation = find_ablation(name)
    variants = ablation.variants(SOURCES)
    columns = [variant.column for variant in variants]
    assert len(set(columns)) == len(columns)
    assert {variant.against or ablation.reference for variant in variants} <= set(columns)
    for variant in variants:
        assert replace(Settings(), **variant.changes)  # every change is a setting
        assert set(variant.sources or ()) <= set(SOURCES)


def test_a_student_of_few_labels_stands_against_a_model_of_as_few() -> None:
    variants = {variant.column: variant for variant in find_ablation("labels").variants(SOURCES)}
    students = [variant for variant in variants.values() if variant.stage == "student"]
    assert [student.changes["label_fraction"] for student in students] == [0.1, 0.25, 1.0]
    for student in students:
        assert variants[str(student.against)].changes == student.changes


def test_an_unknown_name_lists_all() -> None:
    with pytest.raises(SettingsError, match=r"no ablation 'labls'[\s\S]*labels: Do other data sets help more"):
        find_ablation("labls")
