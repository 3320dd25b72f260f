import hashlib
import json
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdkd_auto.core.errors import DatasetError, SettingsError
from mdkd_auto.core.records import Box, Case, Dataset, Fold, Splits
from mdkd_auto.datasets.splits import (
    keeps_existing,
    make_splits,
    read_raw_splits,
    read_splits,
    say_splits,
    torn_by,
    torn_patients,
    write_splits,
)


def dataset(cases, folder="raw/Dataset001_A"):
    """``cases``: (case_id, patient_id, split)."""
    return Dataset(
        name="Dataset001_A",
        folder=str(folder),
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={"x": (1,)},
        file_ending=".png",
        cases=tuple(Case(case_id=c, images=(f"{c}.png",), patient_id=p, split=s) for c, p, s in cases),
    )


def plain(count, split=""):
    return [(f"c{number:03d}", f"c{number:03d}", split) for number in range(count)]


def check(data, splits):
    """Every case once in the test part or once in each fold; patients whole."""
    patients = {case.case_id: case.patient_id for case in data.cases}
    for fold in splits.folds:
        assert sorted((*splits.test, *fold.train, *fold.val)) == sorted(patients)
        parts = [{patients[case] for case in part} for part in (splits.test, fold.train, fold.val)]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert fold.train
        assert fold.val


@given(st.lists(st.integers(0, 30), min_size=3, max_size=60), st.integers(0, 5), st.randoms())
def test_every_split_keeps_patients_whole(patient_of_case, seed, random):
    cases = [(f"c{number}", f"p{patient}", "") for number, patient in enumerate(patient_of_case)]
    patients = len(set(patient_of_case))
    if patients < 3:
        with pytest.raises(DatasetError, match="at least 3 patients"):
            make_splits(dataset(cases), seed)
        return
    splits = make_splits(dataset(cases), seed)
    check(dataset(cases), splits)
    by_case = {case: patient for case, patient, _ in cases}
    assert len({by_case[case] for case in splits.test}) == max(1, round(0.2 * patients))
    validated = [case for fold in splits.folds for case in fold.val]
    assert sorted((*validated, *splits.test)) == sorted(by_case)
    random.shuffle(cases)
    assert make_splits(dataset(cases), seed) == splits


def test_sizes_and_seed():
    splits = make_splits(dataset(plain(100)), 0)
    assert len(splits.test) == 20
    assert [len(fold.val) for fold in splits.folds] == [16] * 5
    assert make_splits(dataset(plain(100)), 1) != splits
    small = make_splits(dataset(plain(3)), 0)
    assert (len(small.test), len(small.folds)) == (1, 2)
    assert make_splits(dataset(plain(4)), 0, test_fraction=0.9).folds[1].train
    assert make_splits(dataset(plain(4)), 0, test_fraction=0).test == ()
    for wrong in ({"folds": 1}, {"test_fraction": -0.1}, {"test_fraction": 1.0}):
        with pytest.raises(SettingsError, match="need at least 2 folds and 0 <= part < 1"):
            make_splits(dataset(plain(9)), 0, **wrong)


def test_the_draw_is_the_same_on_every_machine():
    assert make_splits(dataset(plain(10)), 0).test == ("c000", "c008")  # the two lowest SHA-256 of "0:c00n"


def test_classes_are_dealt_out_alike_on_every_machine():
    """Three of one class and six of another, each in the order of SHA-256 of "0:c00n", interleaved at (k + 0.5) / size.

    a: c000, c003, c006 at 1/6, 3/6, 5/6; b: c008, c005, c001, c007, c004, c002 at 1/12, 3/12, ... 11/12. The first two
    are tested on; the others go to the fold that has fewest of their class, then fewest in all.
    """
    cases = tuple(
        Case(case_id=f"c{n:03d}", images=("x",), patient_id=f"c{n:03d}", class_name="a" if n % 3 == 0 else "b")
        for n in range(9)
    )
    data = msgspec.structs.replace(dataset([]), task="classification", labels={"a": (0,), "b": (1,)}, cases=cases)
    orders = {
        name: sorted(
            (case.case_id for case in cases if case.class_name == name),
            key=lambda case: hashlib.sha256(f"0:{case}".encode()).hexdigest(),
        )
        for name in "ab"
    }
    places = [((k + 0.5) / len(order), case) for order in orders.values() for k, case in enumerate(order)]
    waiting = [case for _, case in sorted(places)]
    splits = make_splits(data, 0, test_fraction=2 / 9, folds=2)
    assert splits.test == tuple(sorted(waiting[:2]))
    folds: tuple[list[str], list[str]] = ([], [])
    for case in waiting[2:]:
        name = "a" if case in orders["a"] else "b"
        fewest = min(folds, key=lambda fold, name=name: (len(set(fold) & set(orders[name])), len(fold)))
        fewest.append(case)
    assert [fold.val for fold in splits.folds] == [tuple(sorted(fold)) for fold in folds]


def test_a_test_part_that_is_large_enough_grows_no_more():
    """Ten patients, of whom four were tested on before: six more make 3.2 of 16, so none is added; of 25, one is."""
    before = make_splits(dataset(plain(10)), 0, test_fraction=0.4)
    assert len(before.test) == 4
    assert make_splits(dataset(plain(16)), 0, existing=before).test == before.test
    grown = make_splits(dataset(plain(25)), 0, existing=before).test
    assert len(grown) == 5
    assert set(before.test) < set(grown)


def test_two_folds_keep_two_patients():
    splits = make_splits(dataset(plain(5)), 0, test_fraction=0.9, folds=2)
    assert (len(splits.test), [len(fold.val) for fold in splits.folds]) == (3, [1, 1])
    splits = make_splits(dataset(plain(3)), 0, test_fraction=0.9, folds=2)
    assert (len(splits.test), [len(fold.val) for fold in splits.folds]) == (1, [1, 1])


def test_new_patients_go_to_the_smallest_fold():
    """Five and one of before, and four more: five each."""
    first, second = ("a", "b", "c", "e", "f"), ("d",)
    before = Splits(test=("t",), folds=(Fold(train=second, val=first), Fold(train=first, val=second)))
    data = dataset([(name, name, "") for name in "abcdeftwxyz"])
    after = make_splits(data, 0, test_fraction=0.1, existing=before)
    assert [len(fold.val) for fold in after.folds] == [5, 5]


def said(data, caplog, raw_splits=None):
    """What is logged of its splits."""
    caplog.clear()
    caplog.set_level(logging.WARNING)
    say_splits(data, make_splits(data, 0, raw_splits=raw_splits), raw_splits)
    return caplog.text


def test_a_test_part_without_cases_is_told(caplog):
    stated = [("a", "a", "train"), ("b", "b", "val"), ("c", "c", "test")]
    assert said(dataset(stated), caplog) == ""
    assert "no test part" in said(dataset(stated[:2]), caplog)
    folds = (Fold(train=("c000", "c001"), val=("c002",)),)
    assert said(dataset(plain(4)), caplog, folds) == ""
    assert "no test part" in said(dataset(plain(3)), caplog, folds)


def test_folders_that_state_splits_are_named():
    cases = tuple(
        Case(case_id=f"c{n}", images=("x",), patient_id="p", class_name="a", split="test" if n else "train")
        for n in range(2)
    )
    data = msgspec.structs.replace(dataset([]), task="classification", labels={"a": (0,)}, cases=cases)
    with pytest.raises(DatasetError, match="in several parts by folders named for splits"):
        make_splits(data, 0)


def test_test_rows_of_cases_csv():
    data = dataset([*plain(10), ("x1", "x", "".join(("te", "st"))), ("x2", "x", "")])
    splits = make_splits(data, 0)
    assert splits.test == ("x1", "x2")
    assert len(splits.folds) == 5
    check(data, splits)


def test_train_rows_are_never_tested_on(caplog):
    data = dataset([("t1", "t1", "train"), ("t2", "t2", "train"), *plain(3)])
    for seed in range(10):
        splits = make_splits(data, seed)
        assert len(splits.test) == 1
        assert splits.test[0].startswith("c")
    assert make_splits(dataset(plain(4, "train")), 0).test == ()
    assert "no test part" in said(dataset(plain(4, "train")), caplog)


def test_a_train_row_takes_its_case_out_of_a_stored_test_part():
    before = make_splits(dataset(plain(10)), 0)
    moved = before.test[0]
    rows = [(name, patient, "train" if name == moved else "") for name, patient, _ in plain(10)]
    after = make_splits(dataset(rows), 0, existing=before)
    check(dataset(rows), after)
    assert after.test == before.test[1:]
    assert sum(moved in fold.val for fold in after.folds) == 1


def test_val_and_train_rows_are_a_single_fold(caplog):
    data = dataset([("a", "a", "train"), ("b", "b", "val"), ("c", "c", "test"), ("d", "d", "")])
    splits = make_splits(data, 0)
    assert splits == Splits(test=("c",), folds=(Fold(train=("a", "d"), val=("b",)),))
    assert "1 patient(s) without a split go to training: d" in said(data, caplog)


def test_a_torn_patient_is_refused():
    with pytest.raises(DatasetError, match=r"by column split of cases\.csv; choose one(.|\n)*p: test, train"):
        make_splits(dataset([("a", "p", "train"), ("b", "p", "test"), *plain(5)]), 0)


@pytest.mark.parametrize(
    ("table", "by"),
    [
        (None, "column Train_Val_Test of DL_info.csv"),
        ("case_id,patient_id\na,p\n", "column Train_Val_Test of DL_info.csv"),
        ("case_id,split\na,train\n", "column split of cases.csv and column Train_Val_Test of DL_info.csv"),
    ],
)
def test_the_table_that_states_splits_is_named(tmp_path, table, by):
    (tmp_path / "DL_info.csv").touch()
    if table is not None:
        (tmp_path / "cases.csv").write_text(table)
    torn = dataset([("a", "p", "train"), ("b", "p", "test"), *plain(5)], tmp_path)
    with pytest.raises(DatasetError) as error:
        make_splits(torn, 0)
    assert f"{tmp_path}: cases of one patient are in several parts by {by}; choose one for each" in str(error.value)
    with pytest.raises(DatasetError, match="leaves no case to train on") as error:
        make_splits(dataset(plain(3, "val"), tmp_path), 0)
    assert by in str(error.value)


def test_existing_patients_stay_new_ones_are_dealt_out():
    before = make_splits(dataset(plain(10)), 0)
    kept = [case for case in plain(24) if case[0] not in {"c000", "c001"}]
    data = dataset([*kept, ("again", "c005", "")])
    after = make_splits(data, 7, existing=before)
    check(data, after)
    assert len(after.folds) == 5
    assert set(before.test) - {"c000", "c001"} <= set(after.test)
    for old, new in zip(before.folds, after.folds, strict=True):
        assert set(old.val) - {"c000", "c001"} <= set(new.val)
    place = [part for part in (after.test, *(fold.val for fold in after.folds)) if "c005" in part]
    assert "again" in place[0]
    sizes = [len(fold.val) for fold in after.folds]
    assert max(sizes) - min(sizes) <= 2
    assert make_splits(dataset(plain(10)), 99, existing=before) == before


def test_raw_splits(tmp_path, caplog):
    data = dataset(plain(4), tmp_path)
    assert read_raw_splits(data) is None
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["c001", "c000"], "val": ["c002"]}, {"train": ["c002"], "val": ["c001"]}]))
    splits = make_splits(data, 0, raw_splits=read_raw_splits(data))
    assert splits.test == ("c003",)
    assert splits.folds[0] == Fold(train=("c000", "c001"), val=("c002",))
    path.write_text(json.dumps([{"train": ["c000", "c001"], "val": ["c002", "c003"]}]))
    assert make_splits(data, 0, raw_splits=read_raw_splits(data)).test == ()
    assert "no test part" in said(data, caplog, read_raw_splits(data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"train": ["c000"], "val": ["zz"]}]', "fold 0: case 'zz' is not in the data set"),
        ('[{"train": ["c000"], "val": ["c000"]}]', "'c000' is in train and val"),
        ('[{"train": ["c000"], "val": []}]', "is empty"),
        ('[{"train": ["c000", "c001", "c000"], "val": ["c002"]}]', "fold 0: 'c000' is listed twice in train"),
        ('[{"train": ["c000"], "val": ["held"]}]', "test case by column split of cases.csv"),
        ('[{"train": ["c000"], "val": ["c002"]}]', "'kept' is in no fold, and so would be tested on"),
        ("[]", "no folds"),
        ('{"train": []}', "expected a list of folds"),
        ("[", "not valid JSON"),
    ],
)
def test_wrong_raw_splits(tmp_path, content, message):
    (tmp_path / "splits_final.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_raw_splits(dataset([*plain(3), ("held", "held", "test"), ("kept", "kept", "train")], tmp_path))


def test_patients_torn_by_splits_are_counted(tmp_path):
    data = dataset([("a", "p", ""), ("b", "p", ""), ("c", "q", ""), ("d", "q", ""), ("e", "r", "")], tmp_path)
    folds = (Fold(train=("a", "c", "d"), val=("b",)), Fold(train=("b", "c", "d"), val=("a",)))
    splits = make_splits(data, 0, raw_splits=folds)
    assert splits.test == ("e",)
    assert torn_patients(data, splits) == {"p": 2}  # q only trains, r is only tested on
    assert torn_patients(data, splits, {"d": "x", "e": "x"}) == {"x": 2}
    assert torn_patients(data, make_splits(data, 0)) == {}


def by_names(data):
    """As if names of cases said the patients."""
    cases = tuple(msgspec.structs.replace(case, patient_by="name") for case in data.cases)
    return msgspec.structs.replace(data, cases=cases)


def test_splits_that_are_stated_go_before_patients_of_names():
    """They part p, and only him; q keeps together."""
    stated = [("a", "p", "train"), ("b", "p", "test"), ("c", "p", ""), ("d", "q", "test"), ("e", "q", ""), *plain(5)]
    data = by_names(dataset(stated))
    splits = make_splits(data, 0)
    assert splits.test == ("b", "d", "e")
    assert torn_patients(data, splits) == {"p": pytest.approx(3, abs=1)}
    assert torn_by(splits, data) == {}  # the second time, too
    assert make_splits(data, 0, existing=splits) == splits
    with_val = by_names(dataset([("a", "p", "train"), ("b", "p", "val"), ("c", "q", "test"), ("d", "r", "")]))
    assert make_splits(with_val, 0).folds == (Fold(train=("a", "d"), val=("b",)),)
    assert not keeps_existing(with_val, None)
    assert keeps_existing(data, None)
    assert not keeps_existing(data, ())


def test_too_few_patients_by_their_names():
    few = by_names(dataset([(f"sub-1_{number}", "sub-1", "") for number in range(9)]))
    with pytest.raises(DatasetError, match=r"1 patient\(s\) by their names"):
        make_splits(few, 0)


def test_splits_are_written_and_read(tmp_path):
    splits = make_splits(dataset(plain(7)), 0)
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json") == splits
    assert "patient_pattern" not in (tmp_path / "splits.json").read_text()  # as before there was any
    named = msgspec.structs.replace(splits, patient_pattern="(?P<patient>x)")
    write_splits(tmp_path / "splits.json", named)
    assert read_splits(tmp_path / "splits.json") == named
    (tmp_path / "splits.json").write_text('{"test": [], "folds": [], "extra": 1}')
    with pytest.raises(DatasetError, match="extra"):
        read_splits(tmp_path / "splits.json")


def test_every_part_of_a_classification_data_set_has_its_classes() -> None:
    cases = tuple(
        Case(
            case_id=f"c{number:03d}",
            images=("x",),
            patient_id=f"p{number // 2:02d}",
            class_name=("rare" if number // 2 % 5 == 0 else "usual"),
        )
        for number in range(100)
    )
    dataset = Dataset(
        name="Dataset001_A",
        folder="",
        task="classification",
        modality="CXR",
        channel_names=("CXR",),
        file_ending="",
        labels={"usual": (0,), "rare": (1,)},
        cases=cases,
    )
    splits = make_splits(dataset, seed=0)
    class_of = {case.case_id: case.class_name for case in cases}
    assert len(splits.test) == 20
    for part in (splits.test, *(fold.val for fold in splits.folds)):
        rare = sum(class_of[case] == "rare" for case in part)
        assert rare == pytest.approx(len(part) / 5, abs=2)  # a patient has two cases
    assert make_splits(dataset, seed=1).test != splits.test


def test_every_part_of_a_detection_data_set_has_images_without_boxes() -> None:
    """A patient counts as without where none of his images has a box."""
    box = Box(class_name="nodule", x=1, y=1, width=2, height=2)
    empty = {number for number in range(30) if number % 5 == 2}
    cases = tuple(
        Case(
            case_id=f"c{number:03d}",
            images=("x",),
            patient_id=f"p{number // 2:02d}",
            boxes=() if number // 2 in empty or number % 2 else (box,),
        )
        for number in range(60)
    )
    dataset = Dataset(
        name="Dataset001_A",
        folder="",
        task="detection",
        modality="CT",
        channel_names=("CT",),
        file_ending="",
        labels={"nodule": (1,)},
        cases=cases,
    )
    for seed in range(5):
        splits = make_splits(dataset, seed=seed)
        for part in (splits.test, *(fold.val for fold in splits.folds)):
            assert len({int(case[1:]) // 2 for case in part} & empty) == 1


def test_cases_with_errors_are_no_unknown_cases_of_raw_splits(tmp_path):
    folds = [{"train": ["c000", "broken"], "val": ["c001"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    data = dataset(plain(3), tmp_path)
    with pytest.raises(DatasetError, match="'broken' is not in the data set"):
        read_raw_splits(data)
    assert read_raw_splits(data, {"broken", "c000"}) == (Fold(train=("c000",), val=("c001",)),)
