"""Every setting of a training run, in one documented record; docs/settings.md explains each."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.files import read_json, to_record
from mdkd_auto.core.presets import PRESETS
from mdkd_auto.core.records import ByTask, Record, Task

Architecture = str  # unet, tresunet; for classification also medvit_small and names of timm: tasks/ knows them

ONLINE = "online"  # of ``pretrained``: what the network's library fetches (timm, transformers)
FUSION_HEADS = 8  # of the attention of a classification group's joint teacher
REFERENCE_EPOCHS = 300  # the paper's longest run: warm-up, ramp and temperature are given on this scale
UPDATES_A_VALIDATION_BATCH = 4  # at least: a forward pass takes up to two thirds of an update, and validation a fifth


# Far beyond use; what is above makes no sense, or no machine can hold.
WIDEST, MOST_FOLDS, LARGEST_SEED, LARGEST_SETTING = 4096, 1000, 2**32 - 1, 1e9
_MOST = {
    "epochs": 10**7,
    "iterations_per_epoch": 10**7,
    "validation_batches": 10**6,
    "early_stopping_epochs": 10**7,
    "plateau_epochs": 10**7,
    "batch_size": 1 << 14,
    "width": WIDEST,
    "student_width": WIDEST,
    "attention_keys": 256,
    "seed": LARGEST_SEED,
    "fold": MOST_FOLDS,
    "joint_channels": 1 << 14,
    "fusion_blocks": 64,
    "learning_rate": 100,
    "joint_learning_rate": 100,
    "student_learning_rate": 100,
    "encoder_rate": 1e6,
}


def _check_most(settings: Record, where: str = "") -> None:
    """Raise ValueError for numbers that are too large or not finite."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, (int, float)) and not value <= _MOST.get(name, LARGEST_SETTING):
            raise ValueError(f"{where}{name} is {value:g}; it must be at most {_MOST.get(name, LARGEST_SETTING):g}")


class ClassificationSettings(Record, frozen=True, kw_only=True):
    """What a classification group takes in the place of the settings of the same name, and what only it has."""

    architecture: Architecture = "medvit_small"  # where neither teachers nor students name one
    architecture_of: dict[str, Architecture] = msgspec.field(default_factory=dict)  # 021 -> network of its teacher
    dropout: float = 0.0
    attention_dropout: float = 0.0  # MedViT
    moment_exchange: bool = False  # MedViT: channel means and deviations of another image of the batch
    # joint teacher
    joint_channels: int = 256  # joint_ch: width of its tokens
    fusion_blocks: int = 3  # FA_blocks
    joint_learning_rate: float | None = None  # None: as learning_rate
    joint_weight_decay: float | None = None
    # student, eq. (16)
    logits: float = 0.5  # weight of the distilled logits, eq. (15)
    logits_temperature: float = 1.0
    beta: float = 0.0  # of the contrastive loss, optional here
    gamma: float = 0.5
    delta: float = 1.0
    distilled: str = "late-3"  # early-K or late-K: which fusion blocks the student's last K levels learn
    student_learning_rate: float | None = None
    student_weight_decay: float | None = None

    def __post_init__(self) -> None:
        _check_most(self, "classification.")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"classification.{name} is {getattr(self, name)}; it must be 0 or more and below 1")
        for name in ("joint_channels", "fusion_blocks", "logits_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"classification.{name} is {getattr(self, name)}; it must be above 0")
        if self.joint_channels % FUSION_HEADS:
            raise ValueError(
                f"classification.joint_channels is {self.joint_channels}; it must be a multiple of "
                f"{FUSION_HEADS}, the heads of its attention"
            )
        for name in ("logits", "beta", "gamma", "delta"):
            if getattr(self, name) < 0:
                raise ValueError(f"classification.{name} is {getattr(self, name)}; it must be 0 or more")
        if not re.fullmatch(r"(early|late)-[1-9]", self.distilled):
            raise ValueError(f"classification.distilled is {self.distilled!r}; use early-K or late-K, like late-3")


class DetectionSettings(Record, frozen=True, kw_only=True):
    """What a detection group takes in the place of the settings of the same name, and what only it has, eq. (24)."""

    architecture: Architecture = "faster_rcnn_resnet50"  # where neither teachers nor students name one
    gradient_clip_norm: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    delta: float = 1.0
    attention: float = 1.0  # eta1, of the attention transfer, eq. (19)-(21)
    logits: float = 1.0  # eta2, of the head's logits, eq. (22)
    embeddings: float = 1.0  # eta3, of the head's embeddings, eq. (23)
    encoder_rate: float = 1.5  # RF-DETR: the encoder's learning rate against the head's (1.5e-4 against 1e-4)
    logits_temperature: float = 2.0

    def __post_init__(self) -> None:
        _check_most(self, "detection.")
        for name in ("gradient_clip_norm", "logits_temperature", "encoder_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"detection.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("beta", "gamma", "delta", "attention", "logits", "embeddings"):
            if getattr(self, name) < 0:
                raise ValueError(f"detection.{name} is {getattr(self, name)}; it must be 0 or more")


class Settings(Record, frozen=True, kw_only=True):
    """How networks are trained. Defaults follow the paper, or the source it cites (docs/settings.md)."""

    # budget
    epochs: int = 300
    iterations_per_epoch: int = 250  # updates
    validation_batches: int = 20  # fixed batches on which each epoch is judged; see validation_batches_used
    early_stopping_epochs: int = 50  # without a better validation loss
    # network
    teacher_architecture: Architecture | None = None  # None: unet; for classification MedViT
    student_architecture: Architecture | None = None  # None: the teachers'. The baselines have the student's network
    width: int | None = None  # feature maps of the first stage (TResUNet: of the second); None: the plan's, the paper's
    student_width: int | None = None  # None: as ``width``
    pretrained: str | None = None  # safetensors file for new networks; "online": what their library fetches
    fuse: Literal["both", "encoder", "bottleneck"] = "both"  # levels that the joint teacher fuses
    attention_keys: int | None = None  # of its cross-attention, an axis; None: 8 in 2-D, 4 in 3-D; 0: no attention
    discriminator: Literal["voxelwise", "pooled"] = "voxelwise"  # a layer before the pooling, or not
    reliability: bool = True  # a teacher that is worse on the target's validation cases than its own weighs less
    turn_down: bool = False  # nothing is distilled while the student is behind its baseline on validation
    untrained_sources: bool = False  # a control: networks that learned nothing in the place of the source teachers
    # optimiser
    learning_rate: float = 1e-4  # Adam
    weight_decay: float = 0.0
    gradient_clip_norm: float = 12.0
    best_by: Literal["loss", "score"] = "loss"  # of validation: best weights, plateau, early stop. For detection score
    plateau_factor: float = 0.1
    plateau_epochs: int = 5
    batch_size: int | None = None  # None: the plan's
    # losses
    # "paper": Dice (eq. 1) everywhere, Dice + BCE (eq. 10) for the student; else the same loss in every column, so that
    # a gain is not the loss's
    task_loss: Literal["dice_bce", "dice", "paper"] = "dice_bce"
    target_label_weight: float = 1.0  # r of eq. (2); 0: the source teachers see no target labels
    alpha: float = 1.0  # weight of the task loss, eq. (9)
    beta: float = 0.5  # final weight of the contrastive loss; grows linearly from 0
    gamma: float = 0.5  # weight of the feature loss
    delta: float = 0.1  # weight of the similarity loss
    contrastive_centred: bool = False  # embeddings without what a batch shares; unstable (docs/results.md)
    temperature_start: float = 1.0  # tau of eq. (11)
    temperature_decay: float = 0.99  # an epoch, on the scale of 300 epochs
    temperature_minimum: float = 0.1
    warmup_epochs: float = 10.0  # no distillation before; on the scale of 300 epochs
    ramp_epochs: float = 50.0  # then to full weight; on the scale of 300 epochs
    ramp: Literal["linear", "cosine"] = "linear"  # for detection cosine
    # data
    keep_classes: bool = False  # the target's own classes instead of one foreground
    label_fraction: float = 1.0  # of the target's training patients; sources and validation stay whole
    lesion_fraction: float = 0.33  # of a batch, centred on a lesion
    augment: bool = True
    augmentation: Literal["built-in", "batchgenerators"] = "built-in"  # whose transforms, at the same distribution
    fold: int = 0
    # other tasks
    classification: ClassificationSettings = ClassificationSettings()
    detection: DetectionSettings = DetectionSettings()
    # run
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on GPUs that have it
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        _check_most(self)
        for name in ("epochs", "iterations_per_epoch", "validation_batches", "early_stopping_epochs", "plateau_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("learning_rate", "gradient_clip_norm", "temperature_minimum"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.attention_keys is not None and self.attention_keys < 0:
            raise ValueError(f"attention_keys is {self.attention_keys}; it must be 0 or more")
        for name in (
            "alpha",
            "beta",
            "gamma",
            "delta",
            "target_label_weight",
            "weight_decay",
            "fold",
            "seed",
            "warmup_epochs",
            "ramp_epochs",
            "temperature_decay",
            "checkpoint_minutes",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction is {self.label_fraction}; it must be above 0 and at most 1")
        if not 0 <= self.lesion_fraction <= 1:
            raise ValueError(f"lesion_fraction is {self.lesion_fraction}; it must lie between 0 and 1")
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor is {self.plateau_factor}; it must lie between 0 and 1")
        for name in ("width", "student_width", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")

    def for_task(self, task: Task) -> "Settings":
        """These settings with what the task has in their place, and a network named. What it does not use is as by
        default, so that it changes no job."""
        unused = {name: getattr(_DEFAULTS, name) for name in TASK_SETTINGS[task].unused}
        return replace(self, **unused, **TASK_SETTINGS[task].replaced(self))

    def without_effect(self, task: Task) -> list[str]:
        """Names of settings that are not as by default, and that the task does not use or has others in place of."""
        own = self.for_task(task)
        return [
            name
            for name in self.__struct_fields__
            if getattr(self, name) not in (getattr(_DEFAULTS, name), getattr(own, name))
        ]

    def for_stage(self, stage: str, task: Task) -> "Settings":
        """These settings with what the task has in their place in one stage."""
        return replace(self, **TASK_SETTINGS[task].of_stage(self, stage))

    @property
    def weighs_sources(self) -> bool:
        """Whether source teachers are worth what they find on the target: they have learned from it, and its labels may
        be used."""
        return self.reliability and not self.untrained_sources and self.target_label_weight > 0

    @property
    def validation_batches_used(self) -> int:
        """At most a quarter of the updates of an epoch, and at least one."""
        return min(self.validation_batches, max(1, self.iterations_per_epoch // UPDATES_A_VALIDATION_BATCH))


_DEFAULTS = Settings()


class TaskSettings(NamedTuple):
    """What a task changes of the settings."""

    replaced: Callable[[Settings], dict[str, Any]]  # that it has in the place of settings of the same name
    of_stage: Callable[[Settings, str], dict[str, Any]] = lambda settings, stage: {}  # the same, in one stage
    named: Callable[[Settings, str], dict[str, Any]] = lambda settings, stage: {}  # its own, that a stage depends on
    teachers_of: Callable[[Settings], Mapping[str, Architecture]] = lambda settings: {}  # 021 -> network of its teacher
    unused: tuple[str, ...] = ()  # settings that do nothing here


_CLASSIFIER = ("dropout", "attention_dropout", "moment_exchange")
CLASSIFICATION_OF_STAGE = {
    "teacher": _CLASSIFIER,
    "source_teacher": _CLASSIFIER,
    "joint_teacher": ("dropout", "joint_channels", "fusion_blocks", "joint_learning_rate", "joint_weight_decay"),
    "student": (
        *_CLASSIFIER,
        "logits",
        "logits_temperature",
        "distilled",
        "student_learning_rate",
        "student_weight_decay",
    ),
    "fine_tuned": _CLASSIFIER,
    "multi_head": _CLASSIFIER,
}
_DETECTOR = ("encoder_rate",)
DETECTION_OF_STAGE = {
    "teacher": _DETECTOR,
    "source_teacher": _DETECTOR,
    "student": (*_DETECTOR, "attention", "logits", "embeddings", "logits_temperature"),
    "fine_tuned": _DETECTOR,
    "multi_head": _DETECTOR,
}


def _replaced(settings: Settings, own: ClassificationSettings | DetectionSettings, **more: Any) -> dict[str, Any]:
    named = settings.teacher_architecture or own.architecture
    return {"beta": own.beta, "gamma": own.gamma, "delta": own.delta, "teacher_architecture": named, **more}


def _classification_of_stage(settings: Settings, stage: str) -> dict[str, Any]:
    """The learning rate and weight decay of the stage."""
    part = {"joint_teacher": "joint", "student": "student"}.get(stage)
    if part is None:
        return {}
    own = {name: getattr(settings.classification, f"{part}_{name}") for name in ("learning_rate", "weight_decay")}
    return {name: value for name, value in own.items() if value is not None}


def _class_weights_of(settings: Settings) -> str:
    """Of ``task_loss``, all that classification reads: whether the cross-entropy is weighted in every stage."""
    return settings.task_loss if settings.task_loss == "paper" else "dice_bce"


def _own(part: str, names: Mapping[str, tuple[str, ...]]) -> Callable[[Settings, str], dict[str, Any]]:
    return lambda settings, stage: {name: getattr(getattr(settings, part), name) for name in names.get(stage, ())}


TASK_SETTINGS = ByTask(
    {
        "segmentation": TaskSettings(
            lambda settings: {"teacher_architecture": settings.teacher_architecture or "unet"}
        ),
        "classification": TaskSettings(
            lambda settings: _replaced(settings, settings.classification, task_loss=_class_weights_of(settings)),
            _classification_of_stage,
            _own("classification", CLASSIFICATION_OF_STAGE),
            lambda settings: settings.classification.architecture_of,
            unused=("fuse", "attention_keys", "keep_classes"),
        ),
        "detection": TaskSettings(
            lambda settings: _replaced(
                settings,
                settings.detection,
                ramp="cosine",
                best_by="score",
                gradient_clip_norm=settings.detection.gradient_clip_norm,
            ),
            named=_own("detection", DETECTION_OF_STAGE),
            unused=("fuse", "attention_keys", "keep_classes", "task_loss"),
        ),
    }
)


def load_settings(file: Path | None, overrides: dict[str, Any], preset: str | None = None) -> Settings:
    """Defaults, then the preset, the JSON file, and the overrides.

    Raises SettingsError naming the field and what is allowed.
    """
    if preset is not None and preset not in PRESETS:
        raise SettingsError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    content: dict[str, Any] = {**PRESETS[preset]} if preset is not None else {}
    if file is not None:
        loaded = read_json(file)
        if not isinstance(loaded, dict):
            raise SettingsError(f'{file}: expected an object of settings such as {{"epochs": 100}}, found {loaded!r}')
        content = {
            **content,
            **loaded,
            **{
                name: {**part, **loaded[name]}
                for name, part in content.items()
                if isinstance(part, dict) and isinstance(loaded.get(name), dict)
            },
        }
    content.update(overrides)
    unknown = sorted(set(content) - set(Settings.__struct_fields__))
    if unknown:
        allowed = ", ".join(Settings.__struct_fields__)
        raise SettingsError(f"{file or 'settings'}: unknown setting {', '.join(unknown)}. Allowed: {allowed}")
    return to_record(content, Settings, str(file or "settings"), SettingsError)


def replace(settings: Settings, **changes: Any) -> Settings:
    """A copy with ``changes``; ``{"classification.gamma": 1.0}`` changes what is within."""
    own: dict[str, Any] = {name: value for name, value in changes.items() if "." not in name}
    for task in {name.split(".")[0] for name in changes if "." in name}:
        within = {name.split(".")[1]: value for name, value in changes.items() if name.startswith(f"{task}.")}
        own[task] = msgspec.structs.replace(getattr(settings, task), **within)
    return msgspec.structs.replace(settings, **own)
