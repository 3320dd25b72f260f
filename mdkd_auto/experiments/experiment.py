"""An experiment: the data sets of one group, its plan, its splits and the settings that its jobs are made from."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mdkd_auto.core.errors import DatasetError, PlanError, SettingsError, TrainingError
from mdkd_auto.core.file_hashes import FileHashes, file_hashes
from mdkd_auto.core.files import content_hash
from mdkd_auto.core.limits import read_plan
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Dataset, Fold, Plan, Splits
from mdkd_auto.core.settings import Settings
from mdkd_auto.datasets.case_names import listed
from mdkd_auto.datasets.lost_cases import cases_without_part, lost_cases
from mdkd_auto.datasets.patients import with_patients
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.datasets.split_checks import check_stored
from mdkd_auto.datasets.splits import read_splits
from mdkd_auto.preprocessing.case_store import record_path
from mdkd_auto.tasks.shared.classes import Classes, classes_of
from mdkd_auto.tasks.shared.coverage import cases_in_words, shortened
from mdkd_auto.tasks.task_parts import TASK_PARTS

logger = logging.getLogger(__name__)


class Experiment(NamedTuple):
    """What the jobs of a group are made from."""

    root: Root
    plan: Plan
    datasets: dict[str, Dataset]
    splits: dict[str, Splits]
    settings: Settings
    configuration: str
    problems: tuple[Problem, ...] = ()  # of the raw folder: why cases of the splits are not among the data sets'

    def classes(self, dataset: str) -> Classes:
        return classes_of(self.datasets[dataset], self.settings.keep_classes)

    def hashes(self, dataset: str) -> FileHashes:
        """SHA-256 of the data set's raw files."""
        return file_hashes(self.root.file_hashes(dataset))

    def lost(self, dataset: str) -> dict[str, str]:
        """Case of the stored splits that the raw folder no longer gives -> why."""
        return lost_cases(self.datasets[dataset], self.splits[dataset], self.problems)

    def has_fold(self, dataset: str) -> bool:
        """Whether the fold is one of the data set's; only then is a training for it a replicate of its own."""
        return self.settings.fold < len(self.splits[dataset].folds)

    def fold(self, dataset: str) -> Fold:
        """The cases of the fold; the last there is where a source has fewer folds than the target that it serves."""
        return self.splits[dataset].folds[self.fold_number(dataset)]

    def fold_number(self, dataset: str) -> int:
        """The fold's number in the data set."""
        return min(self.settings.fold, len(self.splits[dataset].folds) - 1)

    def cases(self, dataset: str, part: Literal["train", "val"], label_fraction: float = 1.0) -> tuple[str, ...]:
        """Preprocessed cases of a part of the fold; of ``train`` those of so many of its patients, one at least.

        Raises TrainingError if the part is empty, or cases of it left the raw folder.
        """
        fold = self.fold(dataset)
        folder = self.root.cases(dataset, self.configuration)
        wanted = fold.train if part == "train" else fold.val
        if not wanted:
            raise TrainingError(
                f"{self.root.splits(dataset)}: fold {self.fold_number(dataset)} holds no case for {part}; choose "
                "another fold, or delete the file and run mdkd_plan_and_preprocess: patients are dealt out again, "
                "and what was trained before no longer matches"
            )
        known = {case.case_id for case in self.datasets[dataset].cases}
        if not known.issuperset(wanted):
            lost = self.lost(dataset)
            said = [f"{case}: {lost[case]}" for case in wanted if case in lost]
            raise TrainingError(
                f"{self.datasets[dataset].folder}: {len(said)} of {len(wanted)} cases for {part} can no longer be "
                f"read; put their files back, or run mdkd_plan_and_preprocess to plan without them:{listed(said)}"
            )
        found = tuple(case for case in wanted if record_path(folder, case).is_file())
        if not found:
            raise TrainingError(
                f"{folder}: none of the {len(wanted)} cases for {part} is preprocessed; run mdkd_plan_and_preprocess"
            )
        return self._of_some_patients(dataset, found, label_fraction) if part == "train" else found

    def not_preprocessed(self, dataset: str) -> list[str]:
        """Cases of any fold that have no stored case."""
        folder = self.root.cases(dataset, self.configuration)
        wanted = {case for fold in self.splits[dataset].folds for case in (*fold.train, *fold.val)}
        return sorted(case for case in wanted if not record_path(folder, case).is_file())

    def _of_some_patients(self, dataset: str, cases: tuple[str, ...], share: float) -> tuple[str, ...]:
        """The cases of a share of their patients, drawn by seed; a smaller share is a part of a larger one."""
        patient_of = self.patients(dataset, cases)
        patients = sorted(set(patient_of.values()), key=lambda patient: content_hash([self.settings.seed, patient]))
        chosen = set(patients[: max(1, round(share * len(patients)))])
        return tuple(case for case in cases if patient_of[case] in chosen)

    def patients(self, dataset: str, cases: tuple[str, ...]) -> dict[str, str]:
        """Case -> its patient; one that the raw folder no longer has is a patient of its own."""
        known = {case.case_id: case.patient_id for case in self.datasets[dataset].cases}
        return {case: known.get(case, case) for case in cases}


def make_experiment(
    root: Root,
    group: str,
    datasets: list[Dataset],
    settings: Settings,
    configuration: str,
    problems: Sequence[Problem] = (),
) -> Experiment | None:
    """Read the plan and splits of a group; None, with a warning, if its plan lacks the configuration.

    ``problems`` of the raw folder explain why cases of the stored splits are gone. Raises PlanError if the group has no
    plan or no valid splits, and SettingsError if the settings do not fit it.
    """
    plan = _group_plan(root, group)
    if configuration not in [planned.configuration for planned in plan.configurations]:
        available = ", ".join(planned.configuration for planned in plan.configurations)
        logger.warning("%s: has no configuration %s; its plan has %s (-c)", group, configuration, available)
        return None
    planned_datasets = _planned_datasets(root, plan, group, datasets, configuration)
    splits = _stored_splits(root, planned_datasets)
    checked = _checked_datasets(root, planned_datasets, splits)
    _warn_of_ignored_settings(settings, group, plan.task)
    task_settings = settings.for_task(plan.task)
    experiment = Experiment(root, plan, checked, splits, task_settings, configuration, tuple(problems))
    check_settings(experiment)
    for name in experiment.datasets:
        _warn_of_cases(experiment, name)
    return experiment


def check_settings(experiment: Experiment) -> None:
    """Raise SettingsError for a fold that no data set has, or for networks the task does not support or combine."""
    settings, plan = experiment.settings, experiment.plan
    TASK_PARTS[plan.task].check(settings, plan.configuration(experiment.configuration))
    most = max(len(splits.folds) for splits in experiment.splits.values())
    if settings.fold >= most:
        raise SettingsError(f"fold is {settings.fold}; the splits have {most} folds, numbered from 0")


def _group_plan(root: Root, group: str) -> Plan:
    path = root.plan(group)
    if not path.is_file():
        raise PlanError(f"{path}: {group} is not planned yet; run mdkd_plan_and_preprocess first")
    return read_plan(path)


def _planned_datasets(
    root: Root, plan: Plan, group: str, datasets: list[Dataset], configuration: str
) -> dict[str, Dataset]:
    """The raw data sets of the configuration, by name; warns about those without a plan, and planned ones now gone."""
    names = plan.configuration(configuration).datasets
    present = {dataset.name: dataset for dataset in datasets if dataset.name in names}
    planned = {entry.dataset for entry in plan.datasets}
    for dataset in datasets:
        if dataset.name not in planned:
            logger.warning("%s: not in the plan of %s; run mdkd_plan_and_preprocess to include it", dataset.name, group)
    for name in sorted(set(names) - set(present)):
        logger.warning("%s: in the plan of %s but no longer in %s; left out", name, group, root.raw)
    return present


def _stored_splits(root: Root, datasets: dict[str, Dataset]) -> dict[str, Splits]:
    missing = [name for name in datasets if not root.splits(name).is_file()]
    if missing:
        raise PlanError(f"{', '.join(missing)}: no splits yet; run mdkd_plan_and_preprocess and fix what it reports")
    return {name: read_splits(root.splits(name)) for name in datasets}


def _checked_datasets(root: Root, datasets: dict[str, Dataset], splits: dict[str, Splits]) -> dict[str, Dataset]:
    """The data sets with patients assigned as their splits do. Raises PlanError where splits and cases disagree."""
    assigned = {name: with_patients(dataset, splits[name].patient_pattern)[0] for name, dataset in datasets.items()}
    for name, dataset in assigned.items():
        try:
            check_stored(splits[name], dataset)
        except DatasetError as error:
            raise PlanError(f"{root.splits(name)}: {error}") from None
    return assigned


def _warn_of_ignored_settings(settings: Settings, group: str, task: str) -> None:
    if ignored := settings.without_effect(task):
        verb = "is" if len(ignored) == 1 else "are"
        logger.warning(
            "%s: %s %s set, but without effect on %s; see docs/settings.md", group, ", ".join(ignored), verb, task
        )


def _warn_of_cases(experiment: Experiment, name: str) -> None:
    """Name the cases that the stored splits name and that are gone, that they leave out, or that are not stored."""
    lost, stored = experiment.lost(name), experiment.root.splits(name)
    if lost:
        said = listed([f"{case}: {why}" for case, why in lost.items()])
        logger.warning("%s: %s of %s can no longer be read:%s", name, cases_in_words(len(lost)), stored, said)
    if unused := cases_without_part(experiment.datasets[name], experiment.splits[name]):
        words = "%s: in no part of %s, and so neither trained nor tested on: %s (%s); plan again to deal them out"
        logger.warning(words, name, stored, shortened(unused), cases_in_words(len(unused)))
    if missing := experiment.not_preprocessed(name):
        words = "%s %s: %d cases are not preprocessed and left out: %s. mdkd_plan_and_preprocess makes what it can"
        logger.warning(words, name, experiment.configuration, len(missing), shortened(missing))
