"""Find the image files of a data set without masks, by case and channel, in any supported format."""

from pathlib import Path

from mdkd_auto.core.text import is_utf8
from mdkd_auto.datasets.case_names import NOT_UTF8, split_name, visible_files
from mdkd_auto.datasets.dataset_json import Description
from mdkd_auto.datasets.problems import Finding, Problem, problem
from mdkd_auto.formats.companion_files import Companions
from mdkd_auto.formats.dicom import CONVERT, find_dicom
from mdkd_auto.formats.file_endings import ends_in, image_ending, is_image

EXTRA_OF_ONE = "remove it, or name its channel in dataset.json; a case of its own needs another name, {case}_0000"


class ImageFiles:
    """Image files by case and channel, with the problems found."""

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder, self.description = folder, description
        self.files: dict[str, dict[int, Path]] = {}
        self.problems: list[Problem] = []

    def report(self, kind: str, found: str, file: Path, case_id: str = "", remedy: str = "") -> None:
        self.problems.append(problem(kind, found, dataset=self.folder.name, case_id=case_id, file=file, remedy=remedy))

    def report_finding(self, finding: Finding, case_id: str = "") -> None:
        self.report(finding.kind, finding.found, Path(finding.file), case_id or finding.part, finding.remedy)

    def add_folder(self, images: Path, prefix: str = "") -> set[str]:
        """Add the images of one folder, prefixing case names with ``prefix``; returns their cases."""
        case_ids = set()
        names = visible_files(images)
        companions = Companions(images, names)
        beside = {name.rpartition("_0000.")[0] for name in names}
        for name in names:
            path = images / name
            wanted = self.description.file_ending
            if not is_image(name) or (wanted and not ends_in(name, wanted)):
                if (unread := companions.unread(name, wanted)) is not None:
                    self.report("file-unknown", unread.found, path, remedy=unread.remedy)
                continue
            ending = name[len(name) - len(image_ending(name)) :]
            if not is_utf8(name):
                self.report("case-name", f"its name {NOT_UTF8}", path, f"{prefix}{name[: len(name) - len(ending)]}")
                continue
            case_id, channel = self._case_and_channel(name, ending, beside)
            case_id = f"{prefix}{case_id}"
            case_ids.add(case_id)
            files = self.files.setdefault(case_id, {})
            if channel in files:
                self.report("case-twice", f"is the same case and channel as {files[channel].name}", path, case_id)
            files[channel] = path
        return case_ids

    def _case_and_channel(self, name: str, ending: str, beside: set[str]) -> tuple[str, int]:
        """A number beyond the single channel belongs to the name (``patient_2023.png``), as in :func:`find_cases`.

        The exception: if channel 0 is in ``beside``, the number is an undescribed channel.
        """
        named = split_name(name, ending)
        alone = named is not None and len(self.description.channel_names) == 1 <= named[1] and named[0] not in beside
        return (name[: len(name) - len(ending)], 0) if named is None or alone else named

    def check_channels(self) -> None:
        channels = self.description.channel_names
        for case_id, files in sorted(self.files.items()):
            beside = next(iter(files.values()))
            for channel in sorted(set(files) ^ set(range(len(channels)))):
                if channel in files:
                    message = f"one channel too many; dataset.json names {len(channels)}"
                    remedy = EXTRA_OF_ONE if len(channels) == 1 else ""
                    self.report("image-extra", message, files[channel], case_id, remedy)
                else:
                    message = f"channel {channel}, {channels[channel]}, of this case is missing"
                    self.report("image-missing", message, beside, case_id)

    def check_number(self) -> None:
        """Check that cases exist, as many as dataset.json states."""
        if not self.files:
            message, dicom = "holds no images that can be read", find_dicom(self.folder)
            if dicom is not None:
                self.report("no-cases", f"{message}, but DICOM ({dicom})", self.folder, remedy=CONVERT)
            else:
                self.report("no-cases", message, self.folder)
        number = self.description.number_of_cases
        if self.files and number is not None and number != len(self.files):
            message = f"says numTraining {number}, the folder holds {len(self.files)} cases"
            self.report("number-of-cases", message, self.folder / "dataset.json")
