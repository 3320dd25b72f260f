from mdkd_auto.stages.hierarchy import HIERARCHY
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


def test_a_job_knows_the_data_sets_of_its_stage() -> None:
    for stage in HIERARCHY:
        made = job(stage.name)
        assert made.datasets == stage.datasets(made.target, made.sources)


def test_a_multi_head_model_has_no_target_of_its_own() -> None:
    assert job("multi_head", "group", (A, B)).datasets == (A, B)
    assert job("student", A, (B, C)).datasets == (A, B, C)
