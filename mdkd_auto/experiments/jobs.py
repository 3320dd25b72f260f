"""A permutation (a target and its sources) as jobs. A job's folder carries a hash of all that its result depends on:
a job that is done is found again, whatever changes later, and a teacher that several jobs read is trained once."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mdkd_auto.core.errors import SettingsError, TrainingError
from mdkd_auto.core.files import content_hash, file_hash, to_json_text
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.records import PreprocessedCase
from mdkd_auto.core.settings import ONLINE, TASK_SETTINGS, Architecture
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.preprocessing.case_store import read_case_record
from mdkd_auto.preprocessing.dataset import case_key, plan_key
from mdkd_auto.stages.hierarchy import STAGES, in_order
from mdkd_auto.stages.job import Job, Network, StageName
from mdkd_auto.tasks.task_parts import TASK_PARTS
from mdkd_auto.training.loop import find_device, uses_bf16

IDENTITY_VERSION = 4  # raised when the same inputs would give other results
NETWORK_NAMES = {
    "unet": "UNet",
    "tresunet": "TResUNet",
    "medvit_small": "MedViT-small",
    "medvit_base": "MedViT-base",
    "medvit_large": "MedViT-large",
}  # others by their own
_MOST_NAMES = 8  # sources spelled out in a folder name


class JobMaker:
    """Makes the jobs of an experiment; hashes each data set once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._data: dict[tuple[str, float], dict[str, Any]] = {}
        settings = experiment.settings
        self._precision = "bf16" if uses_bf16(settings.precision, find_device(settings.device)) else "fp32"
        self._pretrained = None if settings.pretrained is None else _hash_of_weights(Path(settings.pretrained))
        named = settings.for_task(experiment.plan.task).teacher_architecture or ""
        self.teachers = self._network(named, settings.width)
        self.students = self._network(settings.student_architecture or named, settings.student_width or settings.width)

    def permutation(self, target: str, sources: tuple[str, ...], baseline: bool = True) -> list[Job]:
        """The jobs of one target with its sources, in an order in which each finds what it reads.

        The data-set-specific model is the teacher where student and teachers have the same network.
        """
        specific = self.specific(target)
        if not sources:
            return [specific]
        jobs = self.distilled(target, sources)
        if baseline and self.experiment.settings.label_fraction == 1:  # a multi-head model has no one target
            jobs.append(self.multi_head((target, *sources)))
        return list({job.folder: job for job in jobs}.values())

    def distilled(self, target: str, sources: tuple[str, ...]) -> list[Job]:
        """Teachers, joint teacher, baseline, student. Without sources the control: the teacher distils itself."""
        networks = tuple(self._teacher_of(dataset) for dataset in (target, *sources))
        teacher = self._job("teacher", target, (), network=networks[0])
        baseline = self.specific(target)  # the same job where teachers and students have one network
        untrained = self.experiment.settings.untrained_sources and bool(sources)
        trained = () if untrained else sources
        source_teachers = [
            self._job("source_teacher", target, (source,), network=network)
            for source, network in zip(trained, networks[1:], strict=False)
        ]
        named = networks if untrained or len(set(networks)) > 1 else ()
        joint = self._job("joint_teacher", target, sources, (teacher, *source_teachers), networks[0], teachers=named)
        student = self._job("student", target, sources, (joint, baseline))
        jobs = [teacher, baseline, *source_teachers, joint, student]
        return list({job.folder: job for job in jobs}.values())

    def _teacher_of(self, dataset: str) -> Network:
        """The network of a data set's teacher."""
        own = TASK_SETTINGS[self.experiment.plan.task].teachers_of(self.experiment.settings).get(dataset[7:10])
        return self.teachers if own is None else self._network(own, self.experiment.settings.width)

    def _network(self, architecture: Architecture, width: int | None) -> Network:
        """Of that width where the architecture has one."""
        has_width = TASK_PARTS[self.experiment.plan.task].has_width
        return Network(architecture, width if has_width(architecture) else None)

    def multi_head(self, datasets: tuple[str, ...]) -> Job:
        """One model of several data sets."""
        return self._job("multi_head", self.experiment.plan.group, tuple(sorted(datasets)))

    def specific(self, target: str) -> Job:
        """The student's network, trained on the target alone."""
        return self._job("teacher", target, (), network=self.students)

    def fine_tuned(self, target: str, source: str) -> list[Job]:
        """The source's own model, then the target's that begins with its weights."""
        first = self._job("teacher", source, (), network=self.students, label_fraction=1.0)
        return [first, self._job("fine_tuned", target, (source,), (first,))]

    def all_permutations(self, targets: tuple[str, ...]) -> list[Job]:
        """Every target that has the fold against all the others; a job that several permutations share stands once."""
        jobs: dict[str, Job] = {}
        for target in filter(self.experiment.has_fold, targets):
            sources = tuple(other for other in targets if other != target)
            jobs.update({job.folder: job for job in self.permutation(target, sources)})
        return in_order(list(jobs.values()))

    def _job(
        self,
        stage: StageName,
        target: str,
        sources: tuple[str, ...],
        reads: tuple[Job, ...] = (),
        network: Network | None = None,
        label_fraction: float | None = None,
        teachers: tuple[Network, ...] = (),
    ) -> Job:
        experiment, kind = self.experiment, STAGES[stage]
        share = experiment.settings.label_fraction if label_fraction is None else label_fraction
        if network is None:
            network = self.students if kind.network == "students" else self.teachers
        datasets = kind.datasets(target, sources)
        fold = experiment.settings.fold if kind.several_heads else experiment.fold_number(target)
        plan = experiment.plan.configuration(experiment.configuration)
        identity = {
            "version": IDENTITY_VERSION,
            "stage": stage,
            "target": target,
            "sources": list(sources),
            "configuration": experiment.configuration,
            "fold": fold,
            "network": {**network._asdict(), "pretrained": self._pretrained},
            **({"teachers": teachers} if teachers else {}),
            "settings": {
                **kind.settings_of(experiment.settings, experiment.plan.task),
                "precision": self._precision,
            },
            "plan": {
                name: value for name, value in msgspec.to_builtins(plan).items() if name not in ("datasets", "reasons")
            },
            "data": {dataset: self._dataset(dataset, share if dataset == target else 1.0) for dataset in datasets},
            "reads": [read.identity["key"] for read in reads],
        }
        key = content_hash(identity)[:8]
        identity = {**json.loads(to_json_text(identity)), "key": key}  # lists, as they are read back from run.json
        architecture = NETWORK_NAMES.get(network.architecture, network.architecture)
        name = f"{kind.folder_name}{_short(sources)}__{architecture}-{key}__{experiment.configuration}"
        return Job(
            stage=stage,
            target=target,
            sources=sources,
            group=experiment.plan.group,
            configuration=experiment.configuration,
            fold=fold,
            **network._asdict(),
            label_fraction=share,
            teachers=teachers,
            folder=f"{target}/{name}/fold_{fold}",
            reads=tuple(read.folder for read in reads),
            identity=identity,
        )

    def _dataset(self, dataset: str, label_fraction: float) -> dict[str, Any]:
        """:func:`data_identity`. Raises TrainingError where a case was preprocessed for another plan, or from other
        files."""
        if (dataset, label_fraction) not in self._data:
            cases = _stored_cases(self.experiment, dataset, label_fraction)
            records = [record for part in cases.values() for record in part]
            _check_plan(self.experiment, dataset, records)
            _check_files(self.experiment, dataset, records)
            self._data[dataset, label_fraction] = data_identity(self.experiment, dataset, cases)
        return self._data[dataset, label_fraction]


def class_counts(experiment: Experiment, job: Job) -> dict[str, tuple[int, ...]]:
    """Training cases of each class, in the order of the outputs, for each data set whose cases have a class."""
    counts = {}
    for dataset in job.datasets:
        cases = experiment.datasets[dataset].cases
        if all(case.class_name is None for case in cases):
            continue
        trained = set(experiment.cases(dataset, "train", job.label_fraction if dataset == job.target else 1.0))
        of_class = Counter(case.class_name for case in cases if case.case_id in trained)
        counts[dataset] = tuple(of_class[channel.name] for channel in experiment.classes(dataset).channels)
    return counts


def _stored_cases(experiment: Experiment, dataset: str, label_fraction: float) -> dict[str, list[PreprocessedCase]]:
    """The records of the fold's cases, part by part."""
    folder = experiment.root.cases(dataset, experiment.configuration)
    parts: tuple[Literal["train", "val"], ...] = ("train", "val")
    return {
        part: [read_case_record(folder, case) for case in experiment.cases(dataset, part, label_fraction)]
        for part in parts
    }


def data_identity(experiment: Experiment, dataset: str, cases: Mapping[str, list[PreprocessedCase]]) -> dict[str, Any]:
    """What a result depends on in one data set: its part of the plan, its classes, its stored cases and split."""
    keys = {part: {record.case_id: record.key for record in records} for part, records in cases.items()}
    return {
        "plan": msgspec.to_builtins(experiment.plan.dataset(dataset)),
        "classes": msgspec.to_builtins(experiment.classes(dataset)),
        **{f"{part} ({len(some)} cases)": content_hash(some)[:16] for part, some in keys.items()},
    }


def check_unchanged(experiment: Experiment, job: Job) -> None:
    """Raise TrainingError where the stored cases are no longer those that the job was made for."""
    for dataset, known in job.identity["data"].items():
        share = job.label_fraction if dataset == job.target else 1.0
        found = data_identity(experiment, dataset, _stored_cases(experiment, dataset, share))
        if json.loads(to_json_text(found)) != known:
            folder = experiment.root.cases(dataset, experiment.configuration)
            raise TrainingError(f"{folder}: the stored cases changed since the command started; run it again")


def _check_plan(experiment: Experiment, dataset: str, cases: Sequence[PreprocessedCase]) -> None:
    """Raise TrainingError where a case was preprocessed for another plan."""
    plan = experiment.plan
    part = plan.configuration(experiment.configuration)
    key = plan_key(experiment.datasets[dataset], plan.dataset(dataset), part)
    others = [case.case_id for case in cases if case.plan_key != key]
    if others:
        folder = experiment.root.cases(dataset, experiment.configuration)
        raise TrainingError(
            f"{folder}: {len(others)} of {len(cases)} cases of {dataset}, such as {others[0]}, were not preprocessed "
            "as plan.json and dataset.json say now; run mdkd_plan_and_preprocess"
        )


def _check_files(experiment: Experiment, dataset: str, cases: Sequence[PreprocessedCase]) -> None:
    """Raise TrainingError where an image, label, class or box changed since its case was preprocessed: training
    would learn from the old files, and be judged by the new ones."""
    whole, plan, hashes = experiment.datasets[dataset], experiment.plan, experiment.hashes(dataset)
    raw = {case.case_id: case for case in whole.cases}
    plans = plan.dataset(dataset), plan.configuration(experiment.configuration)
    changed = [stored.case_id for stored in cases if stored.key != case_key(raw[stored.case_id], whole, *plans, hashes)]
    hashes.save()
    if changed:
        raise TrainingError(
            f"{whole.folder}: {len(changed)} of {len(cases)} cases to train and validate on, such as {changed[0]}, "
            "changed since they were preprocessed; run mdkd_plan_and_preprocess"
        )


def _hash_of_weights(path: Path) -> str:
    """Hash of the file of pretrained weights, or the word for what a library fetches. Raises SettingsError."""
    if str(path) == ONLINE:
        return ONLINE
    if not path.is_file():
        raise SettingsError(f"pretrained: {path} does not exist; give a safetensors file of the network's weights")
    return file_hash(path)


def is_finished(root: Root, job: Job) -> bool:
    """Whether the job's folder holds a complete result."""
    return RunFolder(root.results / job.folder).finished.is_file()


def _short(sources: tuple[str, ...]) -> str:
    """-012-013; many sources are counted instead, the hash in the folder's name tells them apart."""
    if len(sources) > _MOST_NAMES:
        return f"-{len(sources)}sets"
    return "".join(f"-{source[7:10]}" for source in sources)
