"""The stages of the method in the order in which they run: teacher, joint teacher, student; then the baselines."""

from mdkd_auto.stages.fine_tuned import FINE_TUNED
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.joint_teacher import JOINT_TEACHER
from mdkd_auto.stages.multi_head import MULTI_HEAD
from mdkd_auto.stages.source_teacher import SOURCE_TEACHER
from mdkd_auto.stages.stage import Stage
from mdkd_auto.stages.student import STUDENT
from mdkd_auto.stages.teacher import TEACHER

HIERARCHY = (TEACHER, SOURCE_TEACHER, JOINT_TEACHER, STUDENT, FINE_TUNED, MULTI_HEAD)
STAGES = {stage.name: stage for stage in HIERARCHY}


def stage_of(job: Job) -> Stage:
    """The stage that a job names."""
    return STAGES[job.stage]


def in_order(jobs: list[Job]) -> list[Job]:
    """By stage, so that each job follows what it reads, and a source's own teacher what continues it."""
    return sorted(jobs, key=lambda job: HIERARCHY.index(stage_of(job)))
