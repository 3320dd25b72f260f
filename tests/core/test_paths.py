"""The folder convention of docs/folders.md."""

from pathlib import Path

from mdkd_auto.core.paths import Root, RunFolder


def test_the_three_folders_and_the_files_in_them() -> None:
    root = Root(Path("/root"))
    name = "Dataset011_Lung"
    expected = {
        root.raw: "raw",
        root.results: "results",
        root.plan("CT_segmentation"): "preprocessed/CT_segmentation/plan.json",
        root.integrity: "preprocessed/integrity.json",
        root.fingerprint(name): f"preprocessed/{name}/dataset_fingerprint.json",
        root.fingerprint_cache(name): f"preprocessed/{name}/fingerprint_cache",
        root.file_hashes(name): f"preprocessed/{name}/file_hashes.json",
        root.splits(name): f"preprocessed/{name}/splits.json",
        root.cases(name, "2d"): f"preprocessed/{name}/2d",
    }
    assert {path.as_posix(): f"/root/{end}" for path, end in expected.items()} == {
        f"/root/{end}": f"/root/{end}" for end in expected.values()
    }


def test_a_run_folder() -> None:
    run = RunFolder(Path("run"))
    assert [path.name for path in (run.description, run.finished, run.lock, run.best)] == [
        "run.json",
        "finished.json",
        ".lock",
        "checkpoint_best.safetensors",
    ]
    assert run.masks("test") == Path("run/test")
    assert run.masks("test", "Dataset011_Lung") == Path("run/test/Dataset011_Lung")
