"""Arrows point down only: the imports of every module, read from the source."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from mdkd_auto.stages.job import StageName

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mdkd_auto"
AT_THE_ROOT = {"planners", "preprocessing"}  # imported as mdkd_auto.planners, mdkd_auto.preprocessing
LEVELS = (  # low to high; a module imports its own room and lower levels
    {"core"},
    {"formats"},
    {"datasets", "networks", "losses", "metrics"},
    {"preprocessing"},
    {"planners"},
    {"batches"},
    {"training", "inference"},
    {"tasks"},
    {"stages"},
    {"preparation"},
    {"experiments"},
    {"execution"},
    {"doctor", "report", "demo"},
    {"prediction"},
    {"pipeline"},
    {"cli"},
    {"__main__"},
)
READS_ENVIRONMENT = {
    "mdkd_auto.cli",
    "mdkd_auto.core.workers",  # sets the thread variables of its child processes, and puts them back
}
NAMES_TASKS = {  # the tables of docs/extending.md, the default, ablations that are for some tasks, made-up data
    "datasets.task_data",
    "core.settings",
    "core.extras",  # the extras of pyproject.toml are named for the tasks that need them
    "batches.library_augmentation",  # a field of the library is named as a task is
    "planners.task_rules",
    "tasks.task_parts",
    "tasks.task_scores",
    "report.figures",
    "prediction",
    "core.records",
    "experiments.ablations",
    "demo.phantoms",
    "datasets.truth.coco",  # a field of the format is named as a task is
}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

Edges = dict[str, set[str]]  # module -> modules it imports


class Source(NamedTuple):
    """A module's name and its parsed source."""

    module: str
    tree: ast.Module
    is_package: bool


def read_sources() -> list[Source]:
    """Every module of the package; the two folders at the repository's root under their import names."""
    found = []
    places = {PACKAGE: PACKAGE} | {name: f"{PACKAGE}.{name}" for name in sorted(AT_THE_ROOT)}
    for folder, prefix in places.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == PACKAGE and parts[0] in AT_THE_ROOT:
                continue  # links to the folders at the root, where a walk follows them
            is_package = parts[-1] == "__init__"
            name = ".".join((prefix, *(parts[:-1] if is_package else parts)))
            found.append(Source(name, ast.parse(path.read_text(encoding="utf-8")), is_package))
    return found


SOURCES = read_sources()
MODULES = {source.module for source in SOURCES}


def imported(source: Source) -> Iterator[str]:
    """Full names of what a module imports, wherever in it; ``from package import module`` names the module."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = source.module.split(".")
                package = package[: len(package) - node.level + source.is_package]
                base = ".".join((*package, base)).rstrip(".")
            for alias in node.names:
                below = f"{base}.{alias.name}"
                yield below if below in MODULES else base


def edges_of(sources: Iterable[Source]) -> Edges:
    """The package's modules and those of its own that they import.

    The package itself counts as importing none: its API is imported on first use (tests/test_init.py).
    """
    return {
        source.module: {name for name in imported(source) if name in MODULES and source.module != PACKAGE}
        for source in sources
    }


def level_and_room(module: str) -> tuple[int, str]:
    """The package itself (its version) lies below everything."""
    parts = module.split(".")
    if len(parts) == 1:
        return -1, ""
    level = next((number for number, rooms in enumerate(LEVELS) if parts[1] in rooms), None)
    if level is None:
        raise AssertionError(f"{module}: no level for {parts[1]!r}; add it to LEVELS")
    return level, parts[1]


def wrong_arrows(edges: Edges) -> list[str]:
    """Imports of a higher level, or of another room of the same level."""
    wrong = []
    for module, targets in edges.items():
        level, room = level_and_room(module)
        for target in sorted(targets):
            other_level, other_room = level_and_room(target)
            if other_level > level or (other_level == level and other_room != room):
                wrong.append(f"{module} -> {target}")
    return wrong


def find_circle(edges: Edges) -> list[str]:
    """Modules that import each other in a circle, the first also last; [] without one."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if circle := visit(target, [*path, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(edges) if (circle := visit(module, []))), [])


def test_all_rooms_are_read() -> None:
    rooms = {module.split(".")[1] for module in MODULES if "." in module}
    assert rooms == set().union(*LEVELS)
    edges = edges_of(SOURCES)
    assert f"{PACKAGE}.pipeline" in edges[f"{PACKAGE}.cli.train"]  # imported inside a function, by its package
    assert any(target.startswith(f"{PACKAGE}.formats.") for target in edges[f"{PACKAGE}.preprocessing.case"])


def test_arrows_point_down() -> None:
    assert wrong_arrows(edges_of(SOURCES)) == []


def test_no_circle() -> None:
    assert find_circle(edges_of(SOURCES)) == []


def test_wrong_arrows_and_circles_are_seen() -> None:
    wrong = {
        "mdkd_auto.formats.image": {"mdkd_auto.preprocessing.case", "mdkd_auto.core.files"},
        "mdkd_auto.networks.unet": {"mdkd_auto.preprocessing.case_store", "mdkd_auto.networks.layers"},
        "mdkd_auto.core.files": {"mdkd_auto.core.errors", "mdkd_auto"},
    }
    assert wrong_arrows(wrong) == [
        "mdkd_auto.formats.image -> mdkd_auto.preprocessing.case",
        "mdkd_auto.networks.unet -> mdkd_auto.preprocessing.case_store",
    ]
    assert find_circle(wrong) == []
    assert find_circle({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]


def test_no_other_code_names_a_task() -> None:
    names = {
        source.module.partition(".")[2]
        for source in SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and node.value in ("segmentation", "detection")
    }
    assert names == NAMES_TASKS


def stage_comparisons(tree: ast.Module) -> list[int]:
    """Lines that compare a job's stage with names of stages: ``job.stage == "student"``."""
    lines = []
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Match):
            sides = [node.subject, *(value for case in node.cases for value in ast.walk(case.pattern))]
        names = {side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "") for side in sides}
        values = {leaf.value for side in sides for leaf in ast.walk(side) if isinstance(leaf, ast.Constant)}
        among = isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
        if "stage" in names and (among or values & set(get_args(StageName))):
            lines.append(node.lineno)
    return lines


def test_only_stages_compare_the_stage_of_a_job() -> None:
    """Other rooms ask the Stage object."""
    found = {source.module: stage_comparisons(source.tree) for source in SOURCES}
    assert [module for module, lines in found.items() if lines and module.split(".")[1] != "stages"] == []
    assert found[f"{PACKAGE}.stages.job"]


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ('job.stage == "student"', [1]),
        ('"teacher" != stage', [1]),
        ('x\nstage not in ("teacher", "student")', [2]),
        ('match job.stage:\n    case "teacher":\n        x', [1]),
        ("stage in stages", [1]),
        ("stage == 2", []),
        ("job.stage == other.stage", []),
        ('stage.check == "source_use"', []),
    ],
)
def test_comparisons_of_a_stage_are_seen(code: str, lines: list[int]) -> None:
    assert stage_comparisons(ast.parse(code)) == lines


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module)
def test_no_second_copy_no_pickle_no_environment(source: Source) -> None:
    names = set(imported(source))
    tops = {name.split(".")[0] for name in names}
    assert not tops & AT_THE_ROOT, "import them as mdkd_auto.planners and mdkd_auto.preprocessing"
    assert not tops & UNSAFE_MODULES
    room = ".".join(source.module.split(".")[:2])
    for node in ast.walk(source.tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False, f"line {node.value.lineno}: allow_pickle must be False"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            written = f"{node.value.id}.{node.attr}"
            assert written != "torch.load", f"line {node.lineno}: torch.load unpickles"
            if written in ("os.environ", "os.getenv", "os.putenv", "os.environb"):
                assert {room, source.module} & READS_ENVIRONMENT, f"line {node.lineno}: only cli reads the environment"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {alias.name for alias in node.names} & {"environ", "getenv"}, "write os.environ"
