from mdkd_auto.core.settings import Settings, replace
from mdkd_auto.stages.hierarchy import HIERARCHY, STAGES


def test_every_setting_belongs_to_a_stage_or_changes_no_result() -> None:
    of_a_stage = {name for stage in HIERARCHY for name in stage.settings}
    no_result = {"device", "checkpoint_minutes"}
    no_result |= {"fold", "teacher_architecture", "student_architecture", "width", "student_width", "pretrained"}
    no_result |= {"label_fraction", "classification", "detection"}
    # the last two lines: what a job names itself
    assert of_a_stage | no_result == set(Settings.__struct_fields__)
    assert not of_a_stage & no_result


def test_a_stage_sees_only_its_own_settings() -> None:
    assert STAGES["student"].settings_of(Settings(gamma=3.0))["gamma"] == 3.0
    assert STAGES["teacher"].settings_of(Settings(gamma=3.0)) == STAGES["teacher"].settings_of(Settings())
    assert replace(Settings(), seed=4) == Settings(seed=4)


def test_without_target_labels_a_joint_teacher_has_nothing_to_weigh_its_sources_by() -> None:
    alone = Settings(target_label_weight=0.0)
    assert not STAGES["joint_teacher"].settings_of(alone)["reliability"]
    assert STAGES["student"].settings_of(alone)["reliability"]
    assert STAGES["joint_teacher"].settings_of(Settings(target_label_weight=0.5))["reliability"]
