from typing import get_args

from mdkd_auto.stages.hierarchy import HIERARCHY, STAGES, in_order, stage_of
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


def test_each_name_has_one_stage_after_all_that_it_reads() -> None:
    assert [stage.name for stage in HIERARCHY] == list(get_args(StageName)) == list(STAGES)
    for place, stage in enumerate(HIERARCHY):
        assert set(stage.reads) <= {earlier.name for earlier in HIERARCHY[:place]}
        assert stage_of(job(stage.name)) is stage


def test_jobs_follow_what_they_read() -> None:
    made = [job("fine_tuned"), job("student"), job("teacher", B, ()), job("joint_teacher"), job("teacher", A, ())]
    order = [(each.stage, each.target) for each in in_order(made)]
    assert order == [("teacher", B), ("teacher", A), ("joint_teacher", A), ("student", A), ("fine_tuned", A)]
