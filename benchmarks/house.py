"""Measure the structure of the code: imports, complexity, function lengths, and where stages and tasks are named.

    python benchmarks/house.py [FOLDER] [--record NAME]

FOLDER is a checkout (default: this one). ``--record NAME`` stores the numbers in benchmarks/records/house.json.
"""

import argparse
import ast
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from radon.complexity import cc_visit
from radon.visitors import Class

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "records" / "house.json"
PACKAGE = "mdkd_auto"
AT_THE_ROOT = ("planners", "preprocessing")
STAGE_NAMES = {"teacher", "source_teacher", "joint_teacher", "student", "fine_tuned", "multi_head"}

Trees = dict[str, ast.Module]  # path in the package (planners/ and preprocessing/ beside it) -> source


def read_trees(folder: Path) -> Trees:
    """The package's modules without its links to planners/ and preprocessing/."""
    paths = [path for path in (folder / PACKAGE).rglob("*.py") if path.relative_to(folder).parts[1] not in AT_THE_ROOT]
    paths += [path for name in AT_THE_ROOT for path in (folder / name).rglob("*.py")]
    return {path.relative_to(folder).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


def module_name(path: str) -> str:
    """mdkd_auto.planners.group of planners/group.py."""
    name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return name if name.startswith(PACKAGE) else f"{PACKAGE}.{name}"


def imported_modules(trees: Trees) -> list[int]:
    """Per module the number of the package's modules that it imports, wherever in it."""
    known = {module_name(path) for path in trees} - {PACKAGE}
    counts = []
    for path, tree in trees.items():
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        counts.append(len(names & known - {module_name(path)}))
    return counts


def function_lengths(trees: Trees) -> list[int]:
    """Lines of each function without its docstring."""
    lengths = []
    for node in _nodes(trees):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            lengths.append((node.end_lineno or 0) - node.lineno + 1 - docstring)
    return lengths


def complexities(folder: Path, trees: Trees) -> list[tuple[int, str]]:
    """Cyclomatic complexity and place of every function, the most complex first (radon)."""
    found = []
    for path in trees:
        for block in cc_visit((folder / path).read_text(encoding="utf-8")):
            functions = block.methods if isinstance(block, Class) else [block]
            found += [(function.complexity, f"{path}: {function.name}") for function in functions]
    return sorted(found, reverse=True)


def stage_comparisons(trees: Trees) -> int:
    """Comparisons with the name of a job's stage outside stages/."""
    elsewhere = {path: tree for path, tree in trees.items() if not path.startswith(f"{PACKAGE}/stages/")}
    compares = [node for node in _nodes(elsewhere) if isinstance(node, ast.Compare)]
    return sum(
        any(isinstance(part, ast.Attribute) and part.attr == "stage" for part in ast.walk(node))
        and any(isinstance(part, ast.Constant) and part.value in STAGE_NAMES for part in ast.walk(node))
        for node in compares
    )


def task_tables(trees: Trees) -> int:
    """Tables by task (``ByTask(...)``) outside catalogue.py."""
    elsewhere = {path: tree for path, tree in trees.items() if path != f"{PACKAGE}/catalogue.py"}
    calls = [node for node in _nodes(elsewhere) if isinstance(node, ast.Call)]
    return sum(isinstance(node.func, ast.Name) and node.func.id == "ByTask" for node in calls)


def untested(folder: Path, trees: Trees) -> list[str]:
    """Modules without a test at their own path: mdkd_auto/core/files.py has tests/core/test_files.py."""
    missing = []
    for path in trees:
        module = Path(path.removeprefix(f"{PACKAGE}/"))
        if module.name != "__init__.py" and not (folder / "tests" / module.parent / f"test_{module.name}").is_file():
            missing.append(path)
    return missing


def quantile(values: Sequence[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(folder: Path) -> dict[str, int]:
    """All numbers of a checkout."""
    trees = read_trees(folder)
    imports, lengths = imported_modules(trees), function_lengths(trees)
    complexity = [value for value, _ in complexities(folder, trees)]
    return {
        "modules": len(trees),
        "imported_modules_p90": quantile(imports, 0.9),
        "complexity_p99": quantile(complexity, 0.99),
        "complexity_max": max(complexity),
        "function_lines_p50": quantile(lengths, 0.5),
        "function_lines_p90": quantile(lengths, 0.9),
        "function_lines_max": max(lengths),
        "stage_comparisons_outside_stages": stage_comparisons(trees),
        "task_tables_outside_catalogue": task_tables(trees),
        "modules_without_own_test": len(untested(folder, trees)),
    }


def _nodes(trees: Trees) -> Iterator[ast.AST]:
    for tree in trees.values():
        yield from ast.walk(tree)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the structure of the code.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="checkout to measure (default: this one)")
    parser.add_argument("--record", metavar="NAME", help="store the numbers under this name in records/house.json")
    arguments = parser.parse_args(argv)
    numbers = measure(arguments.folder)
    sys.stdout.write(json.dumps(numbers, indent=2) + "\n")
    for value, place in complexities(arguments.folder, read_trees(arguments.folder))[:10]:
        sys.stdout.write(f"{value:4d}  {place}\n")
    if arguments.record:
        records = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(records | {arguments.record: numbers}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
