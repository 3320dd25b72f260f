"""Classification from raw folder to table, prediction and resume, on made-up pictures."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto import pipeline
from mdkd_auto.cli import ablate, evaluate, plan_and_preprocess, predict, train, train_all_permutations
from mdkd_auto.core.files import read_json, read_record
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Plan
from mdkd_auto.core.settings import ClassificationSettings, Settings
from mdkd_auto.demo.phantoms import LOOKS, PICTURES, picture, volume, write_pictures
from mdkd_auto.networks import medvit
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.report.comparison import COLUMNS
from mdkd_auto.report.figures import figures_folder
from mdkd_auto.report.tables import Table
from mdkd_auto.training import loop as fitting

A, B, C = (look.name for look in PICTURES)
OWN = ClassificationSettings(architecture="unet", joint_channels=16, fusion_blocks=3)
SETTINGS = Settings(
    epochs=2,
    iterations_per_epoch=3,
    validation_batches=1,
    width=4,
    batch_size=6,
    device="cpu",
    classification=OWN,
)

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(tmp_path_factory.mktemp("pictures"))
    write_pictures(root.raw, cases=52)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    return root


@pytest.fixture(scope="module")
def trained(planned: Root, one_thread: None) -> tuple[Root, Table]:
    (table,) = pipeline.train_all_permutations(planned, SETTINGS)
    return planned, table


def test_the_plan_is_of_whole_images(planned: Root) -> None:
    plan = read_record(planned.plan("CXR_classification"), Plan)
    (part,) = plan.configurations
    assert part.whole_images
    assert part.patch_size == (64, 64)
    assert part.datasets == (A, B, C)


def test_the_plan_says_what_there_is(planned: Root) -> None:
    fingerprint = read_json(planned.fingerprint(B))
    assert (fingerprint["patients"], fingerprint["classes"]) == (42, {"round": 14, "long": 14, "cross": 14})
    text = planned.plan("CXR_classification").with_suffix(".txt").read_text()
    assert "Dataset922_Noisy: classes = round 14, long 14, cross 14: 42 cases of 42 patients outside the test" in text
    assert "test part, images of 64 x 80 voxels" in text


@pytest.mark.parametrize("target", [A, B])
def test_teachers_of_two_kinds_teach_a_third(planned: Root, copied: Callable[[Root], Root], target: str) -> None:
    """Whichever of them the joint teacher begins with; the UNet's width is its own."""
    root, source = copied(planned), {A: B, B: A}[target]
    own = ClassificationSettings(architecture="unet", architecture_of={"922": "efficientnet_b0"}, joint_channels=16)
    fields = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
    settings = Settings(**{**fields, "epochs": 1, "iterations_per_epoch": 2, "classification": own})
    table = pipeline.train(root, settings, target, (source,))
    assert table is not None
    (row,) = table.rows
    kinds = {A: ["unet", 4], B: ["efficientnet_b0", None]}
    (folder,) = (root.results / target).glob("SourceTeacher*")
    assert folder.name.startswith({A: "SourceTeacher-922__efficientnet_b0-", B: "SourceTeacher-921__UNet-"}[target])
    assert "__UNet-" in row.folders["student"][0]
    joint = read_json(root.results / row.folders["joint teacher"][0] / "run.json")["job"]
    assert joint["teachers"] == joint["identity"]["teachers"] == [kinds[target], kinds[source]]
    assert row.checks["joint teacher"]["output_change"] > 0  # type: ignore[operator]


def stop_after_an_epoch(root: Root, run: Path, settings: Settings) -> None:
    """Forget the run, and stop it in its middle when it is trained anew."""
    for name in ("finished.json", "checkpoint_final.safetensors", "checkpoint_best.safetensors", "progress.csv"):
        (run / name).unlink()
    original = fitting._Loop._end_epoch
    calls = []

    def stops(loop: fitting._Loop) -> None:
        original(loop)
        calls.append(loop.state.update)
        if len(calls) == 1:
            loop.save()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitting._Loop, "_end_epoch", stops)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(root, settings, A)
    assert calls == [settings.iterations_per_epoch]


@pytest.mark.parametrize("narrow", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_medvit_and_an_efficientnet_teach(narrow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MedViT is trained, scored, stopped and gone on with, and answers from its run folder alone."""
    if narrow:  # with a block a stage
        monkeypatch.setitem(medvit.SIZES, "small", medvit.Size((1, 1, 1, 1), 0.1))
        monkeypatch.setattr(medvit, "STEM", (16, 8, 16))
        monkeypatch.setattr(medvit, "WIDTHS", ((32, 32), (128, 128), (128, 128), (128, 128)))
    root = Root(tmp_path / "root")
    write_pictures(root.raw, PICTURES[:2], cases=9)
    pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64))
    own = ClassificationSettings(architecture_of={"922": "efficientnet_b0"}, joint_channels=16, dropout=0.1)
    settings = Settings(
        epochs=2, iterations_per_epoch=1, validation_batches=1, batch_size=2, device="cpu", classification=own
    )
    table = pipeline.train(root, settings, A, (B,))
    assert table is not None
    (row,) = table.rows
    assert set(row.summaries) == set(COLUMNS)
    run = root.results / row.folders["student"][0]
    assert read_json(run / "run.json")["job"]["architecture"] == "medvit_small"
    joint = read_json(root.results / row.folders["joint teacher"][0] / "run.json")["job"]
    assert joint["teachers"] == [["medvit_small", None], ["efficientnet_b0", None]]
    answers = (run / "test" / "predictions.csv").read_text()
    images = [root.raw / A / "imagesTr" / f"{case}_0000.png" for case in read_json(root.splits(A))["test"]]
    assert pipeline.predict(images[0], tmp_path / "out", run, device="cpu").problems == ()
    (again,) = csv.DictReader((tmp_path / "out" / "predictions.csv").open())
    (before,) = [one for one in csv.DictReader(answers.splitlines()) if one["case_id"] == again["case_id"]]
    assert {name: before[name] for name in again} == again
    expected = (run / "checkpoint_final.safetensors").read_bytes()
    stop_after_an_epoch(root, run, settings)
    pipeline.train(root, settings, A)
    assert (run / "checkpoint_final.safetensors").read_bytes() == expected
    assert (run / "test" / "predictions.csv").read_text() == answers


def test_every_target_has_its_line(trained: tuple[Root, Table]) -> None:
    root, table = trained
    assert [row.target for row in table.rows] == [A, B, C]
    for row in table.rows:
        assert set(row.summaries) == set(COLUMNS)
        (summary,) = row.summaries["student"]
        tested = read_json(root.splits(row.target))["test"]
        assert summary.overall(per_patient=False).cases == len(tested)  # type: ignore[union-attr]
        assert row.checks["joint teacher"]["check"] == "source_use"
    assert "**balanced accuracy (%)**" in table.markdown
    assert "points accuracy against data-set-specific" in table.markdown
    names = {path.name for path in figures_folder(table.path).iterdir()}
    drawn = {f"{row.target}_{name}.png" for row in table.rows for name in ("tsne", "attention", "learning")}
    assert names == {*drawn, "differences.png", "figures.json"}


def test_a_run_says_what_it_answered(trained: tuple[Root, Table]) -> None:
    root, table = trained
    run = root.results / table.rows[1].folders["student"][0]
    names = {path.name for path in (run / "test").iterdir()}
    assert names == {"summary.json", "summary.md", "predictions.csv", "confusion.png"}
    rows = list(csv.DictReader((run / "test" / "predictions.csv").open()))
    assert {row["case_id"] for row in rows} == set(read_json(root.splits(B))["test"])
    for row in rows:
        for kind in ("probability", "calibrated"):
            values = {name: float(row[f"{kind} {name}"]) for name in ("round", "long", "cross")}
            assert sum(values.values()) == pytest.approx(1, abs=1e-3)
        assert row["class"] in ("round", "long", "cross")
    described = read_json(run / "run.json")
    assert described["task"] == "classification"
    trained_on = read_json(root.splits(B))["folds"][0]["train"]
    assert sum(described["class_counts"][B]) == len(trained_on)


def test_a_class_that_the_target_lacks(trained: tuple[Root, Table]) -> None:
    """The source teachers of A know crosses; its student does not answer them."""
    root, table = trained
    (summary,) = table.rows[0].summaries["student"]
    assert summary.classes == ("round", "long")  # type: ignore[union-attr]
    source = next((root.results / A).glob("SourceTeacher-922*/fold_0"))
    assert read_json(source / "validation" / "summary.json")["classes"] == ["round", "long"]


def test_new_images_are_classified(trained: tuple[Root, Table], command: Command, tmp_path: Path) -> None:
    """Of other sizes, in colour and in 16 bits; a broken one does not stop the others."""
    root, table = trained
    new = tmp_path / "new"
    new.mkdir()
    grey = picture(PICTURES[1], "long", np.random.default_rng(5))
    Pillow.fromarray(grey).save(new / "grey.png")
    Pillow.fromarray(np.stack([grey, grey // 2, grey], axis=-1)).save(new / "colour.jpg")
    Pillow.fromarray(grey.astype(np.uint16) * 200).save(new / "deep_0000.png")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n")
    run = root.results / table.rows[1].folders["student"][0]
    said = command(predict.main, "-i", new, "-o", tmp_path / "out", "-m", run, "--device", "cpu")
    assert said.status == 1  # type: ignore[attr-defined]
    assert "broken" in said.err  # type: ignore[attr-defined]
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["case_id"] for row in rows] == ["colour", "deep", "grey"]
    assert read_json(tmp_path / "out" / "prediction.json")["classes"] == ["round", "long", "cross"]
    assert float(rows[1]["probability long"]) == pytest.approx(float(rows[2]["probability long"]), abs=2e-3)


def test_answers_are_scored(trained: tuple[Root, Table], command: Command, tmp_path: Path) -> None:
    root, table = trained
    run = root.results / table.rows[1].folders["student"][0]
    said = command(evaluate.main, "-i", run / "test", "-l", root.raw / B, "-o", tmp_path)
    assert said.status == 0, said.err  # type: ignore[attr-defined]
    ours, theirs = (read_json(folder / "summary.json")["scores"] for folder in (run / "test", tmp_path))
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert theirs["metrics"][name]["mean"] == ours["metrics"][name]["mean"]
    assert theirs["metrics"]["auroc"]["mean"] == pytest.approx(ours["metrics"]["auroc"]["mean"], abs=1e-6)
    assert "probabilities as they are, without calibration." in (tmp_path / "summary.md").read_text()
    assert not (tmp_path / "predictions.csv").exists()  # the answers are another's, and stay where they are
    lines = (run / "test" / "predictions.csv").read_text().splitlines()
    for changed, words in (
        ([lines[0], lines[1].replace("case_", "other_")], "is no case of Dataset922_Noisy"),
        ([lines[0].replace("probability long", "p long"), lines[1]], "row 1 has no column probability long"),
        ([lines[0], ",".join([*lines[1].split(",")[:3], "nan", *lines[1].split(",")[4:]])], "from 0 to 1"),
        ([lines[0]], "holds no row"),
    ):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / "predictions.csv").write_text("\n".join(changed) + "\n")
        said = command(evaluate.main, "-i", tmp_path / "bad", "-l", root.raw / B)
        assert said.status == 1  # type: ignore[attr-defined]
        assert words in said.err  # type: ignore[attr-defined]


def test_it_goes_on_where_it_was_stopped(trained: tuple[Root, Table], copied: Callable[[Root], Root]) -> None:
    """Stopped in the middle of the student, it ends with the same weights, bit by bit."""
    root = copied(trained[0])
    run = root.results / trained[1].rows[0].folders["student"][0]
    expected = (run / "checkpoint_final.safetensors").read_bytes()
    answers = (run / "test" / "predictions.csv").read_bytes()
    stop_after_an_epoch(root, run, SETTINGS)
    pipeline.train(root, SETTINGS, A)
    assert (run / "checkpoint_final.safetensors").read_bytes() == expected
    assert (run / "test" / "predictions.csv").read_bytes() == answers


def test_ablations_of_depth_and_place(trained: tuple[Root, Table], copied: Callable[[Root], Root]) -> None:
    """What is trained stays; the students of other depths are trained, and all stand in one table."""
    root = copied(trained[0])
    before = {path.parent for path in root.results.rglob("finished.json")}
    (depth,) = pipeline.ablate(root, SETTINGS, "depth", targets=(A,))
    students = ("student L1", "student L2", "student L3")
    made = {path.parent for path in root.results.rglob("finished.json")} - before
    (row,) = depth.rows
    assert made == {root.results / row.folders[student][0] for student in students[:2]}
    assert row.folders["student L3"] == trained[1].rows[0].folders["student"]
    assert tuple(row.summaries) == ("multi-head", "data-set-specific", "joint teacher", *students)
    assert tuple(row.comparisons) == ("multi-head", "joint teacher", *students)
    assert depth.path.name.startswith("table_depth_2d_fold_0__")
    assert "## How many levels should be distilled?" in depth.markdown
    for column in row.comparisons:
        assert f"- {A} (test): {column} " in depth.markdown
    assert (figures_folder(depth.path) / "differences.png").is_file()

    (place,) = pipeline.ablate(root, SETTINGS, "early-late", targets=(A,))
    (compared,) = place.rows
    assert list(compared.comparisons) == [f"{kind}-{count}" for kind in ("early", "late") for count in (1, 2, 3)]
    for count in (1, 2, 3):
        assert compared.folders[f"late-{count}"] == row.folders[f"student L{count}"]


def test_look_alikes_that_are_trained_and_tested_on(command: Command, tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    write_pictures(root.raw, PICTURES[:2], cases=12)
    folder = root.raw / A
    rows = (folder / "cases.csv").read_text().splitlines()
    splits = ["split", *("test" if number < 4 else "" for number in range(12))]
    (folder / "cases.csv").write_text("\n".join(f"{row},{split}" for row, split in zip(rows, splits, strict=True)))
    with Pillow.open(folder / "imagesTr" / "case_001_0000.png") as original:
        pixels = np.asarray(original)
    brighter = np.clip(pixels.astype(int) + 5, 0, 255).astype(np.uint8)
    Pillow.fromarray(brighter).save(folder / "imagesTr" / "case_007_0000.png")
    Pillow.fromarray(brighter[:, ::-1].copy()).save(folder / "imagesTr" / "case_009_0000.png")  # not alike: mirrored
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1")
    assert said.status == 1  # type: ignore[attr-defined]
    assert "case_007_0000.png: looks the same as case case_001" in said.err  # type: ignore[attr-defined]
    assert "which is tested on" in said.err  # type: ignore[attr-defined]
    assert "case_009" not in said.err  # type: ignore[attr-defined]
    assert not root.plan("CXR_classification").is_file()
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1", "--exclude-broken")
    assert said.status == 0, said.err  # type: ignore[attr-defined]
    splits_of_a = json.dumps(read_json(root.splits(A)))
    assert "case_007" not in splits_of_a
    assert "case_001" in splits_of_a
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1", "--allow-duplicates")
    assert said.status == 0, said.err  # type: ignore[attr-defined]
    assert "case_007" in json.dumps(read_json(root.splits(A)))


def test_volumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As they lie in a scanner's files: classes of folders' names in a table, through 3d_fullres."""
    root = Root(tmp_path / "root")
    for number, look in enumerate(LOOKS[:2]):
        folder = root.raw / look.name
        (folder / "imagesTr").mkdir(parents=True)
        small = look._replace(shape=(8, 36, 36), spacing_mm=(6.0, 6.0, 6.0))
        rows = ["case_id,label"]
        for case in range(8):
            image, _ = volume(small, np.random.default_rng([number, case]))
            turned = image[:, ::-1] if case % 2 else image
            nib.save(
                nib.Nifti1Image(turned.transpose(2, 1, 0).copy(), np.diag([6.0, 6.0, 6.0, 1.0])),
                folder / "imagesTr" / f"c{case}_0000.nii.gz",
            )
            rows.append(f"c{case},{'up' if case % 2 else 'down'}")
        (folder / "cases.csv").write_text("\n".join(rows))
        (folder / "dataset.json").write_text('{"task": "classification", "channel_names": {"0": "CT"}}')
    pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64))
    (part,) = read_record(root.plan("CT_classification"), Plan).configurations
    assert (part.configuration, part.patch_size) == ("3d_fullres", (64, 64, 64))
    fields = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
    settings = Settings(**{**fields, "epochs": 1, "iterations_per_epoch": 1, "width": 2, "batch_size": 2})
    table = pipeline.train(root, settings, LOOKS[0].name, configuration="3d_fullres")
    assert table is not None
    assert set(table.rows[0].summaries) == set(COLUMNS)
    assert pipeline.train_all_permutations(root, settings) == []
    assert "CT_classification: has no configuration 2d; its plan has 3d_fullres (-c)" in caplog.text


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"architecture_of": {"22": "unet"}}, "names '22', which is no data set here; expected three digits, of 921,"),
        ({"architecture_of": {"922": "unet", "999": "unet"}}, "architecture_of names '999', which is no data set here"),
        ({"architecture_of": {"922": "resnet999"}}, "network 'resnet999'"),
        ({"fusion_blocks": 2}, "late-3"),
    ],
    ids=str,
)
def test_mistakes_are_refused_before_anything_is_trained(
    planned: Root, command: Command, tmp_path: Path, own: dict[str, object], words: str
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"classification": {"architecture": "unet", "joint_channels": 16, **own}}))
    arguments = ("--root", planned.folder, "--settings", settings, "--device", "cpu", "--dry-run")
    for main, *more in ((train_all_permutations.main,), (train.main, "921"), (ablate.main, "controls")):
        said = command(main, *more, *arguments)
        assert said.status == 1  # type: ignore[attr-defined]
        assert words in said.err  # type: ignore[attr-defined]


def test_a_variant_of_an_ablation_that_cannot_be_trained(planned: Root, command: Command, tmp_path: Path) -> None:
    """late-1 can, late-3 of two blocks cannot, and that is said before late-1 is trained."""
    settings = tmp_path / "settings.json"
    own = {"architecture": "unet", "joint_channels": 16, "fusion_blocks": 2, "distilled": "late-1"}
    settings.write_text(json.dumps({"classification": own}))
    arguments = ("--root", planned.folder, "--settings", settings, "--device", "cpu", "--dry-run")
    assert command(train.main, "921", *arguments).status == 0  # type: ignore[attr-defined]
    said = command(ablate.main, "early-late", *arguments)
    assert said.status == 1  # type: ignore[attr-defined]
    assert "classification.distilled is early-3" in said.err  # type: ignore[attr-defined]


def test_a_width_is_given_to_the_networks_that_have_one(planned: Root, command: Command) -> None:
    arguments = ("--root", planned.folder, "--device", "cpu", "--dry-run", "--teacher-arch", "unet", "--width", 8)
    said = command(train.main, "921", "--student-arch", "efficientnet_b0", *arguments)
    assert said.status == 0, said.err  # type: ignore[attr-defined]
    said = command(train.main, "921", "--student-arch", "efficientnet_b0", "--student-width", 4, *arguments)
    assert "leave --student-width out" in said.err  # type: ignore[attr-defined]


def test_the_commands_line(planned: Root, command: Command) -> None:
    said = command(
        train_all_permutations.main,
        "--root",
        planned.folder,
        "--teacher-arch",
        "resnet999",
        "--dry-run",
        "--device",
        "cpu",
    )
    assert said.status == 1  # type: ignore[attr-defined]
    assert "network 'resnet999': neither ours nor timm's" in said.err  # type: ignore[attr-defined]
