"""Jobs in a few words, each its own."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job

_NOT_NAMED = ("key", "version", "data", "reads", "plan", "pretrained")  # of an identity: hashes, or the same for all


def title_of(job: Job) -> str:
    """A job in a few words: student of 011 from 012, 013 (2d, fold 0)."""
    return f"{stage_of(job).title_of(job)} ({job.configuration}, fold {job.fold})"


def titles_of(jobs: Sequence[Job]) -> dict[str, str]:
    """Folder -> title; jobs of one title are told apart by the settings that differ, or else by their keys."""
    titles = {}
    for title in dict.fromkeys(title_of(job) for job in jobs):
        alike = {job.folder: dict(_leaves(job.identity)) for job in jobs if title_of(job) == title}
        names = dict.fromkeys(name for leaves in alike.values() for name in leaves)
        differing = [name for name in names if len({leaves.get(name) for leaves in alike.values()}) > 1]
        own = {
            folder: ", ".join(f"{name.rpartition(' ')[2]} {leaves[name]}" for name in differing if name in leaves)
            for folder, leaves in alike.items()
        }
        times = Counter(own.values())
        for job in jobs:
            if job.folder in own:
                key = f"key {job.identity['key']}" if times[own[job.folder]] > 1 else ""
                words = ", ".join(filter(None, (own[job.folder], key)))
                titles[job.folder] = f"{title}: {words}" if words else title
    return {job.folder: titles[job.folder] for job in jobs}


def _leaves(identity: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    """Name -> value of what an identity holds of networks and settings."""
    for name, value in identity.items():
        if name in _NOT_NAMED:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{where} {name}".strip())
        else:
            yield f"{where} {name}".strip(), str(value)
