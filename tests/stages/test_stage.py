from mdkd_auto.stages.hierarchy import HIERARCHY, STAGES
from mdkd_auto.stages.job import Job, StageName

A, B, C = "Dataset001_A", "Dataset002_B", "Dataset003_C"


def job(stage: StageName, target: str = A, sources: tuple[str, ...] = (B, C)) -> Job:
    return Job(
        stage=stage,
        target=target,
        sources=sources,
        group="group",
        configuration="2d",
        fold=0,
        architecture="unet",
        width=None,
        folder=f"{target}/{stage}",
        reads=(),
        identity={},
    )


def test_titles_name_target_and_sources() -> None:
    titles = {stage.name: stage.title_of(job(stage.name)) for stage in HIERARCHY}
    assert titles == {
        "teacher": f"teacher of {A}",
        "source_teacher": f"source teacher 002, 003 -> {A}",
        "joint_teacher": f"joint teacher of {A} from 002, 003",
        "student": f"student of {A} from 002, 003",
        "fine_tuned": f"model of {A} fine-tuned from 002, 003",
        "multi_head": "multi-head model of 002, 003",
    }
    assert STAGES["student"].title_of(job("student", A, ())) == f"student of {A} from itself alone"


def test_only_source_teachers_and_multi_head_models_draw_from_other_data_sets() -> None:
    drawn = {stage.name: stage.drawn(job(stage.name, A, (B,))) for stage in HIERARCHY}
    assert drawn == {**dict.fromkeys(STAGES, (A,)), "source_teacher": (A, B), "multi_head": (B,)}
    predicted = {stage.name: stage.predicted(job(stage.name, A, (B,))) for stage in HIERARCHY}
    assert predicted == {**dict.fromkeys(STAGES, (A,)), "multi_head": (B,)}
    assert [stage.name for stage in HIERARCHY if stage.head_of(B) == B] == ["multi_head"]


def test_which_jobs_serve_a_target_with_its_sources() -> None:
    student, joint, teacher = (STAGES[name] for name in ("student", "joint_teacher", "teacher"))
    assert student.serves(job("student"), A, (B, C))
    assert not student.serves(job("student"), A, (B,))
    assert not joint.serves(job("joint_teacher"), B, (B, C))
    assert teacher.serves(job("teacher", A, ()), A, (B, C))
    assert not teacher.serves(job("teacher", B, ()), A, (B, C))
    several = job("multi_head", "group", (A, B, C))
    assert STAGES["multi_head"].serves(several, B, (C, A))
    assert not STAGES["multi_head"].serves(several, B, (C,))


def test_costs_are_relative_to_a_teacher() -> None:
    assert STAGES["teacher"].cost == 1.0
    assert all(stage.cost > 1.0 for stage in HIERARCHY if stage.runs_all_teachers)
