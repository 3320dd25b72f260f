"""The folder convention, in one place. See docs/folders.md."""

from pathlib import Path

ROOT_VARIABLE = "MDKD_ROOT"
DEFAULT_ROOT = "mdkd_data"


class Root:
    """raw/, preprocessed/ and results/ under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def preprocessed(self) -> Path:
        return self.folder / "preprocessed"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def plan(self, group: str) -> Path:
        """The group plan; its reasons stand beside it as plan.txt."""
        return self.preprocessed / group / "plan.json"

    @property
    def integrity(self) -> Path:
        """All that was found wrong with the raw folder; the same in words beside it as integrity.txt."""
        return self.preprocessed / "integrity.json"

    def fingerprint(self, dataset: str) -> Path:
        return self.preprocessed / dataset / "dataset_fingerprint.json"

    def fingerprint_cache(self, dataset: str) -> Path:
        """Per-case fingerprints and foreground values, so that an added case costs only itself."""
        return self.preprocessed / dataset / "fingerprint_cache"

    def file_hashes(self, dataset: str) -> Path:
        """SHA-256 of the raw files, with sizes and times: an unchanged file is not read again to hash it."""
        return self.preprocessed / dataset / "file_hashes.json"

    def splits(self, dataset: str) -> Path:
        return self.preprocessed / dataset / "splits.json"

    def cases(self, dataset: str, configuration: str) -> Path:
        """Folder of the stored cases: {case}.b2nd, {case}_seg.b2nd, {case}.json."""
        return self.preprocessed / dataset / configuration


class RunFolder:
    """One job's folder: results/{data set or group}/{Stage}-{sources}__{network}-{key}__{configuration}/fold_{k}."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def description(self) -> Path:
        """What the run is: job, plan, classes, settings. With the weights, all that prediction needs."""
        return self.folder / "run.json"

    @property
    def finished(self) -> Path:
        """Written last: its presence says that the job is done."""
        return self.folder / "finished.json"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoint_best.safetensors"

    def masks(self, part: str, dataset: str | None = None) -> Path:
        """Predicted masks and summary.json of ``part`` (validation, test); a folder a data set in multi-head runs."""
        return self.folder / part / dataset if dataset else self.folder / part
