"""The paper's ablations and our controls, by name: which trainings stand side by side, and what each is for."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.records import Task
from mdkd_auto.core.settings import replace
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.stages.hierarchy import STAGES
from mdkd_auto.stages.job import Job, StageName

SPECIFIC = "data-set-specific"
LABEL_FRACTIONS = (0.1, 0.25, 1.0)  # of the target's training patients
DETECTOR_LOSSES = {  # eq. (24): loss -> its weight; an experiment's settings have the task's beta, gamma, delta already
    "contrastive": "beta",
    "feature": "gamma",
    "similarity": "delta",
    "attention": "detection.attention",
    "logits": "detection.logits",
    "embeddings": "detection.embeddings",
}
CLASSIFIER_LOSSES = {"logits": "classification.logits", "feature": "gamma", "similarity": "delta"}  # eq. (16)
CONTRASTIVE = 0.5  # weight of the loss that is optional in eq. (16): that of segmentation


class Variant(NamedTuple):
    """One column: the student (or another stage) of a permutation whose settings or sources are changed."""

    column: str
    changes: Mapping[str, Any] = MappingProxyType({})  # of settings
    sources: tuple[str, ...] | None = None  # None: all; (): the target's own teacher alone
    stage: StageName = "student"
    against: tuple[str, ...] | None = None  # the columns it is compared with; None: the ablation's reference


class Ablation(NamedTuple):
    """Variants, given the sources of a target, each compared with ``reference`` where it names no other columns."""

    question: str
    reference: str
    variants: Callable[[tuple[str, ...]], tuple[Variant, ...]]
    tasks: tuple[Task, ...] = ()  # for which it is; (): for all
    further: str = ""  # what the comparisons with second and later columns ask
    reading: str = ""  # and what their answers mean

    def is_for(self, task: Task) -> bool:
        return not self.tasks or task in self.tasks

    def against(self, variant: Variant) -> tuple[str, ...]:
        """The columns that a variant is compared with; the reference itself with none."""
        if variant.against is not None:
            return variant.against
        return (self.reference,) if variant.column != self.reference else ()


_SPECIFIC = Variant(SPECIFIC, stage="teacher")
_FULL = Variant("student")


def _each_source(sources: tuple[str, ...]) -> tuple[Variant, ...]:
    single = [Variant(f"from {source[7:10]}", sources=(source,)) for source in sources]
    return (_SPECIFIC, *single, Variant("from all", against=(SPECIFIC, *(one.column for one in single))))


def _controls(sources: tuple[str, ...]) -> tuple[Variant, ...]:
    controls = (
        Variant("self-distilled", sources=()),
        Variant("untrained sources", {"untrained_sources": True}),
        *(Variant(f"fine-tuned from {source[7:10]}", sources=(source,), stage="fine_tuned") for source in sources),
    )
    student = _FULL._replace(against=(SPECIFIC, *(control.column for control in controls)))
    return (_SPECIFIC, student, *controls)


def _few_labels(sources: tuple[str, ...]) -> tuple[Variant, ...]:
    pairs = []
    for share in LABEL_FRACTIONS:
        specific, changes = f"{SPECIFIC}, {share:.0%} labels", {"label_fraction": share}
        pairs += [
            Variant(specific, changes, stage="teacher", against=()),
            Variant(f"student, {share:.0%} labels", changes, against=(specific,)),
        ]
    return tuple(pairs)


def _architectures(sources: tuple[str, ...]) -> tuple[Variant, ...]:
    unet, tresunet = ({"teacher_architecture": name, "student_architecture": None} for name in ("unet", "tresunet"))
    return (
        Variant("UNet alone", unet, stage="teacher", against=()),
        Variant("TResUNet alone", tresunet, stage="teacher", against=()),
        Variant("UNet to UNet", unet, against=("UNet alone",)),
        Variant("TResUNet to TResUNet", tresunet, against=("TResUNet alone", "UNet to UNet")),
        Variant(
            "TResUNet to UNet", {**tresunet, "student_architecture": "unet"}, against=("UNet alone", "UNet to UNet")
        ),
    )


def _always(*variants: Variant) -> Callable[[tuple[str, ...]], tuple[Variant, ...]]:
    return lambda sources: variants


ABLATIONS: dict[str, Ablation] = {
    "target-labels": Ablation(
        "Should source teachers see the target's labels (r of eq. 2)?",
        "r = 1",
        _always(_SPECIFIC, Variant("r = 1"), Variant("r = 0", {"target_label_weight": 0.0})),
    ),
    "sources": Ablation(
        "Which sources help?",
        SPECIFIC,
        _each_source,
        further="Are all sources better than a single one?",
        reading="Behind a single source: the other sources take something away.",
    ),
    "fusion": Ablation(
        "Which levels should be fused?",
        "both",
        _always(
            _SPECIFIC,
            Variant("both"),
            Variant("encoder", {"fuse": "encoder"}),
            Variant("bottleneck", {"fuse": "bottleneck"}),
        ),
        ("segmentation",),
    ),
    "losses": Ablation(
        "What does each distillation loss bring?",
        "all losses",
        _always(
            Variant("all losses"),
            Variant("without contrastive", {"beta": 0.0}),
            Variant("without feature", {"gamma": 0.0}),
            Variant("without similarity", {"delta": 0.0}),
            Variant("without any", {"beta": 0.0, "gamma": 0.0, "delta": 0.0}),
        ),
        ("segmentation",),
    ),
    "classifier-losses": Ablation(
        "What does each distillation loss bring a classifier?",
        "default losses",
        _always(
            Variant("default losses"),
            *(Variant(f"without {name}", {setting: 0.0}) for name, setting in CLASSIFIER_LOSSES.items()),
            Variant("with contrastive", {"beta": CONTRASTIVE}),
            Variant("without any", dict.fromkeys(("beta", *CLASSIFIER_LOSSES.values()), 0.0)),
        ),
        ("classification",),
    ),
    "detector-losses": Ablation(
        "What does each distillation loss bring a detector?",
        "all losses",
        _always(
            Variant("all losses"),
            *(Variant(f"without {name}", {setting: 0.0}) for name, setting in DETECTOR_LOSSES.items()),
            Variant("without any", dict.fromkeys(DETECTOR_LOSSES.values(), 0.0)),
        ),
        ("detection",),
    ),
    "labels": Ablation("Do other data sets help more where labels are few?", f"{SPECIFIC}, 100% labels", _few_labels),
    "controls": Ablation(
        "Is a gain really the other data sets'?",
        SPECIFIC,
        _controls,
        further="Is the student ahead of its controls?",
        reading="Ahead of self-distilled: the gain is the other data sets', and not that of learning twice. Ahead of "
        "untrained sources: it comes from what the source teachers learned. Ahead of a fine-tuned model: distillation "
        "brings more than that source's weights to begin with.",
    ),
    "reliability": Ablation(
        "Should worse teachers weigh less?",
        "off",
        _always(_SPECIFIC, Variant("off", {"reliability": False}), Variant("on", {"reliability": True})),
    ),
    "turn-down": Ablation(
        "Does a student that distillation hurts save itself?",
        SPECIFIC,
        _always(
            _SPECIFIC,
            Variant("centred contrastive loss", {"contrastive_centred": True}),
            Variant("the same, turned down", {"contrastive_centred": True, "turn_down": True}),
            _FULL,
            Variant("student, turned down", {"turn_down": True}),
        ),
        ("segmentation", "detection"),
    ),
    "architecture": Ablation(
        "Does a student beat its own network trained alone?",
        "UNet alone",
        _architectures,
        ("segmentation",),
        further="Which networks should teach and learn?",
        reading="Ahead of UNet to UNet: these networks are the better choice. What distillation brings them is above.",
    ),
    "early-late": Ablation(
        "Should the student learn the first or the last fusion blocks?",
        SPECIFIC,
        _always(
            _SPECIFIC,
            *(
                Variant(f"{kind}-{count}", {"classification.distilled": f"{kind}-{count}"})
                for kind in ("early", "late")
                for count in (1, 2, 3)
            ),
        ),
        ("classification",),
    ),
    "depth": Ablation(
        "How many levels should be distilled?",
        SPECIFIC,
        _always(
            Variant("multi-head", stage="multi_head"),
            _SPECIFIC,
            Variant("joint teacher", stage="joint_teacher"),
            *(Variant(f"student L{count}", {"classification.distilled": f"late-{count}"}) for count in (1, 2, 3)),
        ),
        ("classification",),
    ),
}


def list_ablations() -> str:
    """Each ablation with its question, and the tasks it is for where it is not for all."""
    tasks = {name: f" ({', '.join(one.tasks)})" if one.tasks else "" for name, one in ABLATIONS.items()}
    return "\n".join(f"  {name}: {one.question}{tasks[name]}" for name, one in ABLATIONS.items())


def find_ablation(name: str | None) -> Ablation:
    """Raises SettingsError listing the names there are."""
    if name not in ABLATIONS:
        given = "given" if name is None else repr(name)
        raise SettingsError(f"no ablation {given}; there are:\n{list_ablations()}")
    return ABLATIONS[name]


def variant_jobs(experiment: Experiment, variant: Variant, target: str) -> tuple[Experiment, list[Job]]:
    """What a variant trains for a target, its own result last, and the experiment whose settings it has."""
    own = experiment._replace(settings=replace(experiment.settings, **variant.changes))
    maker = JobMaker(own)
    others = tuple(name for name in experiment.datasets if name != target)
    sources = others if variant.sources is None else variant.sources
    return own, STAGES[variant.stage].jobs(maker, target, sources)
