"""How much teachers are listened to, from the scores of their validation cases."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Case, Topology
from mdkd_auto.core.settings import Settings, replace
from mdkd_auto.execution import teacher_weights as reliability
from mdkd_auto.execution.teacher_weights import distillation_weight, source_weights, validation_score, weight
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.metrics.summary import score_masks
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.unet import UNetEncoder
from mdkd_auto.tasks.classification.scoring import Answer, summary_of_answers
from mdkd_auto.tasks.segmentation.scoring import CaseScores, summary_of, write_summary

A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"
TOPOLOGY = Topology(features=(4, 8, 8), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)))


def test_hand_worked_weights() -> None:
    assert weight(0.8, 0.4) == weight(0.4, 0.4) == weight(0.0, 0.0) == 1.0
    assert weight(0.2, 0.4) == pytest.approx(0.25)
    assert weight(0.0, 0.4) == 0.0


@pytest.mark.parametrize(("right", "expected"), [((8, 8), 1), ((9, 8), 1), ((7, 6), 0.25), ((5, 5), 0), ((3, 3), 0)])
def test_a_classifier_weighs_by_what_is_above_chance(tmp_path: Path, right: tuple[int, int], expected: float) -> None:
    """Two classes of ten cases, so many of them right; the reference has a balanced accuracy of 0.8."""
    experiment: Any = SimpleNamespace(root=Root(tmp_path), plan=SimpleNamespace(task="classification"))
    for folder, numbers in (("reference", (8, 8)), ("teacher", right)):
        answers = [
            Answer(
                case_id=f"{truth}_{number}",
                patient_id=f"{truth}_{number}",
                truth=truth,
                logits=(0.0, 1.0) if (number < numbers[truth]) == bool(truth) else (1.0, 0.0),
            )
            for truth in (0, 1)
            for number in range(10)
        ]
        summary = summary_of_answers(answers, ("well", "sick"), "Dataset021_Toy", "validation", 1.0, {})
        write_json(tmp_path / "results" / folder / "validation" / "summary.json", summary)
    reference, teacher = (validation_score(experiment, folder) for folder in ("reference", "teacher"))
    assert reference == pytest.approx(0.3)
    assert weight(teacher, reference) == pytest.approx(expected)


@pytest.fixture
def experiment(planned: Root, experiment_in: Callable[..., Experiment]) -> Experiment:
    made: Experiment = experiment_in(planned)
    return made


def test_each_source_weighs_by_its_score(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    teacher, from_b, from_c, joint, student, *_ = JobMaker(experiment).permutation(A, (B, C))
    scores = {teacher.folder: 0.6, from_b.folder: 0.3, from_c.folder: 0.7, joint.folder: 0.3}
    monkeypatch.setattr(reliability, "validation_score", lambda _, folder: scores[folder])
    with caplog.at_level(logging.INFO):
        assert source_weights(experiment, joint) == (1.0, pytest.approx(0.25), 1.0)
        assert distillation_weight(experiment, student) == pytest.approx(0.25)
    assert "902 0.25" in caplog.text
    assert "turned down to 0.25" in caplog.text
    for changes in ({"reliability": False}, {"untrained_sources": True}, {"target_label_weight": 0.0}):
        other = experiment._replace(settings=replace(Settings(), **changes))
        assert source_weights(other, joint) == (1.0, 1.0, 1.0)
    assert distillation_weight(experiment._replace(settings=Settings(reliability=False)), student) == 1.0


def test_the_score_that_a_run_has_on_its_validation_cases(
    planned: Root, copied: Callable[[Root], Root], experiment_in: Callable[..., Experiment]
) -> None:
    """From validation/summary.json of its folder; without it nothing is weighed in silence."""
    experiment = experiment_in(copied(planned))
    teacher, _, student = JobMaker(experiment).distilled(A, ())
    folder = experiment.root.results / teacher.folder / "validation"
    with pytest.raises(TrainingError, match=r"validation/summary\.json: missing.*delete .*fold_0 to train.*again"):
        validation_score(experiment, teacher.folder)
    with pytest.raises(TrainingError, match="missing"):
        distillation_weight(experiment, student)
    whole = score_masks(np.ones((4, 4), dtype=bool), np.ones((4, 4), dtype=bool), (1.0, 1.0))
    cases = [Case(case_id=name, images=(f"{name}.nii.gz",), patient_id=name) for name in ("one", "two", "three")]
    for values, expected in (((0.5, None, 0.75), 0.625), ((None, None, None), 0.0)):
        scores = [
            CaseScores(case_id=case.case_id, metrics={"foreground": msgspec.structs.replace(whole, dice=value)})
            for case, value in zip(cases, values, strict=True)
        ]
        write_summary(folder, summary_of(scores, cases, A, "validation", "mm", {}))
        assert validation_score(experiment, teacher.folder) == expected


def test_a_teacher_of_no_weight_is_not_heard() -> None:
    """Whatever it says; and the weights are kept with the network."""
    torch.manual_seed(0)
    teachers = [UNetEncoder(TOPOLOGY, 1, 2) for _ in range(2)]
    joint = JointEncoder(teachers, weights=(1.0, 0.0)).eval()
    images = torch.randn(2, 1, 16, 16)
    before = joint(images)
    for parameter in teachers[1].parameters():
        parameter.data.normal_()
    for ours, theirs in zip(before, joint(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    again = JointEncoder([UNetEncoder(TOPOLOGY, 1, 2) for _ in range(2)])
    again.load_state_dict(joint.state_dict())
    assert again.weights.tolist() == [1.0, 0.0]
    heard = JointEncoder(teachers, weights=(1.0, 0.5)).eval()
    heard.load_state_dict({**joint.state_dict(), "weights": heard.weights})
    assert not torch.allclose(heard(images)[0], before[0])
