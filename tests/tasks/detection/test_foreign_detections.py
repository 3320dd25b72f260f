"""Anyone's detections, as a table or as COCO's results, against the boxes of a data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from mdkd_auto.core.errors import DatasetError, MdkdError
from mdkd_auto.core.files import read_json, read_record, write_json
from mdkd_auto.core.records import Box, Case, Dataset
from mdkd_auto.datasets.truth.boxes import COCO
from mdkd_auto.demo.phantoms import SCENES, write_detection_datasets
from mdkd_auto.execution.score_folder import evaluate
from mdkd_auto.tasks.detection.foreign_detections import score_detections
from mdkd_auto.tasks.detection.scoring import (
    BoxAnswer,
    BoxSummary,
    box_answer_of,
    boxes_from,
    detections_csv,
    summary_of_boxes,
    write_box_summary,
)
from mdkd_auto.tasks.shared.coverage import Truth

HEADER = "case_id,class,score,x,y,width,height"
ROWS = ("a,nodule,0.9,0,0,10,10", "a,mass,0.4,20,20,10,20", "b,nodule,0.8,50,50,10,10")
RESULTS: list[dict[str, Any]] = [  # the same; ids as in the annotations
    {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9},
    {"image_id": 7, "category_id": 5, "bbox": [20, 20, 10, 20], "score": 0.4},
    {"image_id": 9, "category_id": 3, "bbox": [50, 50, 10, 10], "score": 0.8},
]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Images a, b and c with two, one and no true boxes."""
    folder = tmp_path / "Dataset031_Chests"
    images = [
        {"id": number, "file_name": name}
        for number, name in ((7, "a.png"), (9, "x/b_0000.png"), (11, "c.png"), (13, "excluded.png"))
    ]
    categories = [{"id": 3, "name": "nodule"}, {"id": 5, "name": "mass"}, {"id": 6, "name": "scar"}]
    write_json(folder / "annotations.json", {"images": images, "annotations": [], "categories": categories})
    boxes = {
        "a": (
            Box(class_name="nodule", x=0, y=0, width=10, height=10),
            Box(class_name="mass", x=20, y=20, width=10, height=20),
        ),
        "b": (Box(class_name="nodule", x=0, y=0, width=5, height=5),),
        "c": (),
    }
    return Dataset(
        name=folder.name,
        folder=str(folder),
        task="detection",
        modality="CXR",
        channel_names=("CXR",),
        labels={"nodule": (1,), "mass": (2,)},
        file_ending=".png",
        cases=tuple(
            Case(case_id=name, images=(str(folder / "imagesTr" / f"{name}_0000.png"),), patient_id=name, boxes=some)
            for name, some in boxes.items()
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "answers"
    made.mkdir()
    return made


def write_table(folder: Path, *rows: str, header: str = HEADER) -> None:
    (folder / "detections.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def detected(folder: Path, dataset: Dataset) -> BoxSummary:
    summary: BoxSummary = score_detections(folder, Truth(dataset)).summary
    return summary


def counts(summary: BoxSummary) -> tuple[int, dict[str, float | None]]:
    means = summary.scores.metrics
    return summary.scores.cases, {name: means[name].mean for name in ("sensitivity", "precision")}


def test_a_table_without_a_prediction(folder: Path, dataset: Dataset) -> None:
    write_table(folder, *ROWS)
    found = score_detections(folder, Truth(dataset))
    summary = found.summary
    assert counts(summary) == (2, {"sensitivity": pytest.approx(1 / 3), "precision": 0.5})
    assert (summary.dataset, summary.part, summary.threshold) == ("Dataset031_Chests", "answers", 0.5)
    assert (set(found.answered), found.noun) == ({"a", "b"}, "detections")
    assert "only cases with a detection are scored" in found.notes[0]
    assert "can make the scores too good" in found.notes[0]
    write_box_summary(folder, summary, answers=False)
    text = (folder / "summary.md").read_text()
    assert "at least 0.500, for want of a prediction.json that says one: 1 right, 1 wrong" in text
    assert "validation" not in text
    assert read_record(folder / "summary.json", BoxSummary) == summary


def test_a_prediction_says_threshold_and_images(folder: Path, dataset: Dataset) -> None:
    write_table(folder, *ROWS[:2])
    write_json(folder / "prediction.json", {"threshold": 0.3, "images": {"1": "a", "2": "c", "3": "elsewhere"}})
    found = score_detections(folder, Truth(dataset))
    summary = found.summary
    assert counts(summary) == (2, {"sensitivity": 1, "precision": 1})
    assert [answer.case_id for answer in summary.answers] == ["a", "c"]
    assert (set(found.answered), found.noun, found.notes) == ({"a", "c"}, "an entry in prediction.json", ())
    assert found.unmatched == {"image 3": "of prediction.json: 'elsewhere' is no case of Dataset031_Chests"}
    write_box_summary(folder, summary, answers=False)
    assert "at least 0.300, as prediction.json says: 2 right, 0 wrong" in (folder / "summary.md").read_text()


@pytest.mark.parametrize("name", ["detections.csv", "detections.json"])
def test_the_summary_of_a_run_says_threshold_and_images(folder: Path, dataset: Dataset, name: str) -> None:
    """Images b and c have no detection; scored again from the table or the results alone, nothing changes."""
    classes = tuple(dataset.labels)
    found = {"a": boxes_from([(20, 20, 30, 40), (50, 50, 60, 60)], [1, 0], [0.9, 0.25])}
    answers: list[BoxAnswer] = [
        box_answer_of(case, found.get(case.case_id, boxes_from([], [], [])), classes, None) for case in dataset.cases
    ]
    ours = summary_of_boxes(answers, classes, dataset.name, folder.name, 0.2, {})
    write_box_summary(folder, ours)
    for other in {"detections.csv", "detections.json"} - {name}:
        (folder / other).unlink()
    assert counts(ours) == (3, {"sensitivity": pytest.approx(1 / 3), "precision": 0.5})
    for _ in range(2):
        again = detected(folder, dataset)
        assert again == ours
        write_box_summary(folder, again, answers=False)


def test_the_table_holds_scores_as_they_are(folder: Path, dataset: Dataset) -> None:
    """The threshold is one of the scores, here one in 32 bits as of a network, and its detection counts."""
    threshold = float(np.float32(0.1))
    found = {"a": boxes_from([(0, 0, 10, 10), (20, 20, 30, 40)], [0, 1], [threshold, 0.09999])}
    (folder / "detections.csv").write_text(detections_csv(found, tuple(dataset.labels)))
    write_json(folder / "prediction.json", {"threshold": threshold, "images": {"1": "a"}})
    assert counts(detected(folder, dataset)) == (1, {"sensitivity": 0.5, "precision": 1})


def test_a_summary_of_anyones_detections_says_nothing(folder: Path, dataset: Dataset) -> None:
    write_json(folder / "detections.json", RESULTS)
    write_box_summary(folder, detected(folder, dataset), answers=False)
    write_json(folder / "detections.json", RESULTS[:2])
    assert [answer.case_id for answer in detected(folder, dataset).answers] == ["a"]
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "threshold_origin": "my own"})
    assert detected(folder, dataset).threshold == 0.5
    write_json(folder / "summary.json", ["another program's"])
    assert detected(folder, dataset).threshold == 0.5


def test_results_by_the_ids_of_the_annotations_are_the_table(folder: Path, dataset: Dataset) -> None:
    write_json(folder / "detections.json", RESULTS)
    results = detected(folder, dataset)
    write_table(folder, *ROWS)
    assert detected(folder, dataset) == results


def test_results_by_the_numbers_of_a_prediction(folder: Path, dataset: Dataset) -> None:
    numbered = [
        {**one, "image_id": {7: 1, 9: 2}[one["image_id"]], "category_id": {3: 2, 5: 1}[one["category_id"]]}
        for one in RESULTS
    ]
    write_json(folder / "detections.json", numbered)
    images = {"1": "a", "2": "b", "3": "c"}
    write_json(folder / "prediction.json", {"threshold": 0.5, "classes": ["mass", "nodule"], "images": images})
    (Path(dataset.folder) / "annotations.json").unlink()  # not asked
    summary = detected(folder, dataset)
    assert summary.scores.cases == 3
    write_table(folder, *ROWS)
    assert detected(folder, dataset) == summary


def test_the_table_goes_first(folder: Path, dataset: Dataset) -> None:
    (folder / "detections.json").write_text("not read")
    write_table(folder, *ROWS)
    assert detected(folder, dataset).scores.cases == 2


def test_nothing_found_in_listed_images_is_an_answer(folder: Path, dataset: Dataset) -> None:
    write_table(folder)
    with pytest.raises(DatasetError, match=r"detections\.csv: holds no detection in a case of Dataset031_Chests"):
        detected(folder, dataset)
    write_json(folder / "prediction.json", {"images": {"1": "a", "2": "c"}})
    assert counts(detected(folder, dataset)) == (2, {"sensitivity": 0, "precision": None})


def test_no_warning_where_every_case_has_a_detection(folder: Path, dataset: Dataset) -> None:
    write_table(folder, *ROWS, "c,nodule,0.1,0,0,5,5")
    found = score_detections(folder, Truth(dataset))
    assert (found.summary.scores.cases, found.notes) == (3, ())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,cyst,0.9,0,0,10,10", "'cyst' is no class; expected nodule, mass"),
        ("a,nodule,high,0,0,10,10", "score is 'high'; expected a number from 0 to 1"),
        ("a,nodule,nan,0,0,10,10", "score is 'nan'"),
        ("a,nodule,1.2,0,0,10,10", "score is '1.2'"),
        ("a,nodule,0.9,0,left,10,10", "expected four numbers x, y, width, height"),
        ("a,nodule,0.9,0,0,inf,10", "expected four numbers"),
        ("a,nodule,0.9,0,0,-3,10", "width -3 and height 10; expected 0 or more"),
        ("a,nodule,0.9,0,0", "has no width, height"),
    ],
)
def test_a_wrong_row_is_named(folder: Path, dataset: Dataset, row: str, said: str) -> None:
    write_table(folder, ROWS[0], row)
    with pytest.raises(DatasetError) as error:
        detected(folder, dataset)
    assert str(error.value).startswith(f"{folder / 'detections.csv'}: row 3")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 8}, "image_id 8 is none of the 4 known"),
        ({"image_id": None}, "image_id None"),
        ({"category_id": 4}, "category_id 4 is no class; expected one of 3 nodule, 5 mass, 6 scar"),
        ({"category_id": 6}, "'scar' is no class; expected nodule, mass"),
        ({"score": None}, "score is None"),
        ({"score": True}, "score is True"),
        ({"bbox": [0, 0, 10]}, "expected four numbers"),
        ({"bbox": 5}, "expected four numbers"),
        ({"bbox": [0, 0, 10, -1]}, "width 10 and height -1"),
    ],
)
def test_a_wrong_result_is_named(folder: Path, dataset: Dataset, change: dict[str, Any], said: str) -> None:
    write_json(folder / "detections.json", [RESULTS[0], {**RESULTS[1], **change}])
    with pytest.raises(DatasetError) as error:
        detected(folder, dataset)
    assert str(error.value).startswith(f"{folder / 'detections.json'}: detection 2")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("detections.csv", "case_id,class,score\n", "row 1 has no column x, y, width, height"),
        ("detections.csv", "", "row 1 has no column case_id"),
        ("detections.json", "{}", "expected COCO's results, a list"),
        ("detections.json", "[3]", "detection 1 is 3; expected image_id"),
        ("detections.json", "[", "not valid JSON"),
        ("prediction.json", "[]", "expected an object"),
        ("prediction.json", '{"threshold": "high"}', "threshold is 'high'; expected a number from 0 to 1"),
        ("prediction.json", '{"classes": [1]}', "expected a list of names"),
        ("prediction.json", '{"images": {"1": 2}}', "expected an object of numbers and their cases"),
        ("prediction.json", '{"threshold": 0.5, "treshold": 0.3}', "unknown field `treshold`"),
        ("prediction.json", '{"threshold": 0.5, "remarks": 3}', "Expected `object`, got `int` - at `$.remarks`"),
    ],
)
def test_a_wrong_file_is_named(folder: Path, dataset: Dataset, name: str, content: str, said: str) -> None:
    if name == "prediction.json":
        write_table(folder, *ROWS)
    (folder / name).write_text(content)
    with pytest.raises(MdkdError) as error:
        detected(folder, dataset)
    assert str(error.value).startswith(str(folder / name))
    assert said in str(error.value)


def test_other_text_and_an_empty_folder(folder: Path, dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"answers: has no detections\.csv and no detections\.json"):
        detected(folder, dataset)
    (folder / "detections.csv").write_bytes(HEADER.encode() + b"\n\xff\xfe")
    with pytest.raises(DatasetError, match=r"detections\.csv: not UTF-8 text"):
        detected(folder, dataset)


def test_rows_of_other_images_are_named_and_the_rest_scored(folder: Path, dataset: Dataset) -> None:
    write_table(folder, ROWS[0], "d,nodule,0.9,0,0,10,10", "b.png,cyst,0.8,0,0,5,5", "x,nodule,0.8,0,0,5,5")
    found = score_detections(folder, Truth(dataset, {"x": "its picture is damaged"}))
    assert [answer.case_id for answer in found.summary.answers] == ["a"]
    assert found.unmatched == {f"{folder / 'detections.csv'}: row 3": "'d' is no case of Dataset031_Chests"}
    assert (set(found.answered), found.broken) == ({"a", "b", "x"}, {"x"})
    assert found.summary.failed["x"] == "its picture is damaged"
    assert "row 4: 'cyst' is no class; expected nodule, mass" in found.summary.failed["b"]


def test_results_of_an_image_that_is_no_case_are_named(folder: Path, dataset: Dataset) -> None:
    write_json(folder / "detections.json", [*RESULTS, {**RESULTS[0], "image_id": 13}])
    found = score_detections(folder, Truth(dataset))
    assert found.summary.scores.cases == 2
    where = f"{folder / 'detections.json'}: detection 4"
    assert found.unmatched == {where: "'excluded.png' is no case of Dataset031_Chests"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ("a,nodule,0.9,0.1,0.1,0.5,0.5", "b,nodule,0.8,0.2,0.2,0.1,0.3"),
            "2 of 2 boxes have numbers from 0 to 1: fractions of the image",
        ),
        (
            ("a,nodule,0.9,30,40,60,70", "b,nodule,0.8,40,30,70,60"),
            "2 of 2 boxes do not lie in their image as x, y, "
            "width, height, but do as corners x1, y1, x2, y2; write x, y, width, height",
        ),
        (("a,nodule,0.9,20,76,10,4", "a,nodule,0.8,40,78,10,2"), "but do as y, x, height, width"),
        (("a,nodule,0.9,80,0,10,10",), "box 80, 0, 10, 10 lies outside its image of 80 x 72 pixels"),
        (("a,nodule,0.9,0,-20,10,10",), "lies outside its image"),
    ],
)
def test_boxes_in_another_frame_are_refused(folder: Path, dataset: Dataset, rows: tuple[str, ...], said: str) -> None:
    pictures(dataset)
    write_table(folder, *rows)
    with pytest.raises(DatasetError) as error:
        detected(folder, dataset)
    assert str(error.value).startswith(str(folder / "detections.csv"))
    assert said in str(error.value)


def test_a_box_may_reach_over_the_edge(folder: Path, dataset: Dataset) -> None:
    pictures(dataset)
    write_table(folder, "a,nodule,0.9,75,60,10,20", "b,nodule,0.8,-3,0,8,9")
    found = score_detections(folder, Truth(dataset))
    assert (found.summary.scores.cases, found.summary.failed) == (2, {})


def test_boxes_that_may_be_corners_are_doubted(folder: Path, dataset: Dataset) -> None:
    pictures(dataset)
    write_table(
        folder, "a,nodule,0.9,30,40,60,70", "a,mass,0.9,40,30,70,60", "b,nodule,0.9,5,5,20,20", "b,nodule,0.8,1,2,9,9"
    )
    (doubt,) = [note for note in score_detections(folder, Truth(dataset)).notes if "corners" in note]
    assert doubt.startswith("2 of 4 boxes do not lie in their image as x, y, width, height, but all do as corners x1")


def test_ids_of_web_addresses_and_broken_entries(folder: Path, dataset: Dataset) -> None:
    images: list[Any] = [
        {"id": 7.0, "file_name": "/data/local-files/?d=x/a.png"},
        {"id": 9, "file_name": "b.png"},
        {"file_name": "c.png"},
        5,
    ]
    categories: list[Any] = [{"id": 3, "name": "nodule"}, {"id": 5, "name": "mass"}, {"id": 6}]
    write_json(Path(dataset.folder) / COCO, {"images": images, "annotations": [], "categories": categories})
    write_json(folder / "detections.json", RESULTS)
    found = score_detections(folder, Truth(dataset))
    assert (found.summary.scores.cases, found.unmatched) == (2, {})


def pictures(dataset: Dataset) -> None:
    """Of 80 x 72 pixels."""
    for case in dataset.cases:
        Path(case.images[0]).parent.mkdir(exist_ok=True)
        Picture.new("L", (80, 72)).save(case.images[0])


def test_results_without_any_ids(folder: Path, dataset: Dataset) -> None:
    (Path(dataset.folder) / "annotations.json").unlink()  # as of Pascal VOC
    (folder / "detections.json").write_text(json.dumps(RESULTS))
    with pytest.raises(DatasetError, match=r"image_id 7 is none of the 0 known; expected an id of annotations\.json"):
        detected(folder, dataset)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("b,nodule,,50,50,10,10", "has no score"),
        ("b,nodule,0.8,50,50,10", "has no height"),
        ("b,nodule,0.8,50,50,10,10,3", "has 8 cells for 7 columns"),
    ],
)
def test_a_row_with_a_gap_costs_its_own_case_alone(folder: Path, dataset: Dataset, row: str, said: str) -> None:
    write_table(folder, *ROWS[:2], row)
    found = score_detections(folder, Truth(dataset))
    assert found.summary.failed == {"b": f"{folder / 'detections.csv'}: row 4 {said}"}
    assert set(found.answered) == {"a", "b"}
    assert counts(found.summary) == (1, {"sensitivity": 0.5, "precision": 1.0})  # 0.4 is below the threshold of 0.5


def test_detections_of_no_image_are_lost(folder: Path, dataset: Dataset) -> None:
    """They may be what a scored image lacks. Images that were searched and are no cases are others'."""
    write_table(
        folder,
        *ROWS,
        ",nodule,0.9,0,0,10,10",
        "bb,nodule,0.9,0,0,10,10",
        "guest,nodule,0.9,0,0,10,10",
        "A,nodule,0.9,0,0,10,10",
    )
    row = f"{folder / 'detections.csv'}: row"
    alone = score_detections(folder, Truth(dataset))
    assert alone.lost == (f"{row} 5 has no case_id",)
    write_json(folder / "prediction.json", {"images": {"1": "a", "2": "b", "3": "c", "4": "guest"}})
    found = score_detections(folder, Truth(dataset))
    assert found.lost == (
        f"{row} 5 has no case_id",
        f"{row} 6 'bb' is no case of Dataset031_Chests",
        f"{row} 8 'A' is no case of Dataset031_Chests; a differs in capital letters",
    )
    assert found.unmatched.keys() == {f"{row} {number}" for number in (5, 6, 7, 8)} | {"image 4"}
    assert found.summary.scores.cases == 3


def test_corners_that_lie_in_their_image_as_sizes_are_refused_by_the_true_boxes(tmp_path: Path, folder: Path) -> None:
    corners = {"p": (10, 12, 30, 28), "q": (14, 5, 29, 22), "r": (20, 16, 33, 30), "s": (11, 18, 25, 31)}
    (tmp_path / "imagesTr").mkdir()
    cases = []
    for name, (x1, y1, x2, y2) in corners.items():
        image = tmp_path / "imagesTr" / f"{name}_0000.png"
        Picture.fromarray(np.zeros((100, 100), np.uint8)).save(image)
        box = Box(class_name="nodule", x=x1, y=y1, width=x2 - x1, height=y2 - y1)
        cases.append(Case(case_id=name, images=(str(image),), patient_id=name, boxes=(box,)))
    scans = Dataset(
        name="Dataset032_Scans",
        folder=str(tmp_path),
        task="detection",
        modality="CT",
        channel_names=("CT",),
        labels={"nodule": (1,)},
        file_ending=".png",
        cases=tuple(cases),
    )
    write_table(
        folder, *(f"{name},nodule,0.9,{x1},{y1},{x2 - x1},{y2 - y1}" for name, (x1, y1, x2, y2) in corners.items())
    )
    assert score_detections(folder, Truth(scans)).summary.scores.metrics["f1"].mean == 1
    write_table(folder, *(f"{name},nodule,0.9,{x1},{y1},{x2},{y2}" for name, (x1, y1, x2, y2) in corners.items()))
    with pytest.raises(DatasetError) as error:
        score_detections(folder, Truth(scans))
    assert str(error.value) == (
        f"{folder / 'detections.csv'}: 4 of the 4 likeliest boxes hit a true box as corners x1, y1, x2, y2, 0 as x, y, "
        "width, height; write x, y, width, height"
    )


def test_a_lost_detection_is_a_problem(tmp_path: Path, folder: Path) -> None:
    write_detection_datasets(tmp_path / "raw", SCENES[:1], cases=5)
    raw = tmp_path / "raw" / SCENES[0].name
    names = [f"case_{number:03d}" for number in range(5)]
    write_json(folder / "prediction.json", {"images": dict(enumerate(names, start=1))})
    write_table(folder, "case_000,tumour,0.9,2,2,10,10")
    assert evaluate(folder, raw).problems == ()
    write_table(folder, "case_000,tumour,0.9,2,2,10,10", "case_0001,tumour,0.9,2,2,10,10")
    said = f"{folder / 'detections.csv'}: row 3 'case_0001' is no case of {SCENES[0].name}"
    assert evaluate(folder, raw).problems == (said,)
    assert read_json(folder / "summary.json")["coverage"]["missing"] == []
