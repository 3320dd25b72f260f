"""Which faults the tests see: cosmic-ray changes one operator, number or statement, and the module's tests run.

    python benchmarks/mutation.py --folder mutants losses metrics       # stopped, the same command goes on
    python benchmarks/mutation.py --folder mutants --again losses       # survivors, with code and tests of today
    python benchmarks/mutation.py --folder mutants --report             # benchmarks/records/mutation.json

Needs ``pip install cosmic-ray``. Works on a clone of the last commit; cosmic-ray's session files stay in the folder.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = REPOSITORY / "benchmarks" / "records" / "mutation.json"
SEED = 0
PATIENCE = 10  # wall seconds allowed per CPU second: the machine may be busy
LATE = "out of time"
NOT_IN_ANNOTATIONS = "core/ReplaceBinaryOperator_BitOr"  # int | None: any other operator fails on import
PRELOADED = ("pytest", "scipy.stats", "hypothesis", "mdkd_auto.pipeline", "mdkd_auto.demo.phantoms")

QUICK_FIT = (  # without the tests that take longest and hold what others hold too
    "tests/training/test_loop.py --deselect=tests/training/test_loop.py::test_a_small_data_set_beside_a_large_one "
    "--deselect=tests/training/test_loop.py::test_a_failed_try_leaves_no_trace"
)
# Group -> module -> its tests
GROUPS: dict[str, dict[str, str]] = {
    "losses": {
        "mdkd_auto/losses/attention_transfer.py": "tests/losses/test_attention_transfer.py",
        "mdkd_auto/losses/classification.py": "tests/losses/test_classification.py",
        "mdkd_auto/losses/contrastive.py": "tests/losses/test_contrastive.py",
        "mdkd_auto/losses/domain.py": "tests/losses/test_domain.py",
        "mdkd_auto/losses/features.py": "tests/losses/test_features.py",
        "mdkd_auto/losses/overlap.py": "tests/losses/test_overlap.py",
        "mdkd_auto/losses/precision.py": "tests/losses",
        "mdkd_auto/losses/weighting.py": "tests/losses/test_weighting.py tests/stages/test_student.py",
    },
    "metrics": {
        f"mdkd_auto/metrics/{module}.py": f"tests/metrics/{tests}"
        for module, tests in {
            "classification": "test_classification.py",
            "detection": "test_detection.py",
            "lesions": "test_lesions.py",
            "masks": "",
            "noise": "test_noise.py",
            "overlap": "test_overlap.py",
            "statistics": "test_statistics.py",
            "summary": "test_summary.py",
            "surface": "test_surface.py",
            "surfels": "test_surface.py",
        }.items()
    },
    "training": {
        "mdkd_auto/training/checkpoints.py": QUICK_FIT,
        "mdkd_auto/training/loop.py": QUICK_FIT,
        "mdkd_auto/training/interruption.py": f"tests/training/test_interruption.py {QUICK_FIT}",
        **{
            f"mdkd_auto/stages/{stage}.py": f"tests/stages/test_{stage}.py"
            for stage in ("teacher", "source_teacher", "joint_teacher", "student", "fine_tuned", "multi_head")
        },
        "mdkd_auto/training/schedules.py": "tests/training/test_schedules.py",
    },
    "planners": {
        f"planners/{module}.py": f"tests/planners{' tests/test_integrity.py' if module == 'integrity' else ''}"
        for module in (
            "channel",
            "classification",
            "detection",
            "fingerprint",
            "group",
            "integrity",
            "intensities",
            "keep",
            "likeness",
            "member",
            "memory",
            "normalisation",
            "segmentation",
            "spacing",
            "topology",
        )
    },
    "fusion": {
        "mdkd_auto/networks/fusion/joint.py": "tests/networks/fusion/test_joint.py",
        "mdkd_auto/networks/fusion/tokens.py": "tests/networks/fusion/test_tokens.py",
        "mdkd_auto/networks/fusion/levels.py": "tests/networks/fusion/test_levels.py",
    },
    "splits": {"mdkd_auto/datasets/splits.py": "tests/datasets/test_splits.py"},
}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all")
    made.add_argument("--folder", type=Path, required=True, help="clone and session files")
    made.add_argument("--mutants", type=int, default=100, help="mutants per group (default 100)")
    made.add_argument("--seconds", type=float, default=60.0, help="CPU seconds per mutant at most (default 60)")
    made.add_argument("--again", action="store_true", help="try survivors again with the tests of the last commit")
    made.add_argument("--report", action="store_true", help="write the record of all sessions and stop")
    made.add_argument("--serve", nargs=2, metavar=("SOCKET", "SECONDS"), help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.serve:
        _serve(arguments.serve[0], float(arguments.serve[1]))
        return
    folder = arguments.folder.resolve()
    if not arguments.report:
        for group in arguments.groups or GROUPS:
            _mutate(group, folder / group, arguments.mutants, arguments.seconds, arguments.again)
    _report(folder)


def _mutate(group: str, folder: Path, mutants: int, seconds: float, again: bool) -> None:
    clone = folder / "clone"
    if not clone.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "-q", "--local", REPOSITORY, clone], check=True)
    subprocess.run(["git", "-C", clone, "checkout", "-q", "."], check=True)  # a mutant of an interrupted call
    sessions = {module: folder / f"{Path(module).stem}.sqlite" for module in GROUPS[group]}
    before = {module: (clone / module).read_bytes() for module in sessions}
    if again:
        subprocess.run(["git", "-C", clone, "fetch", "-q", REPOSITORY, "HEAD"], check=True)
        subprocess.run(["git", "-C", clone, "reset", "-q", "--hard", "FETCH_HEAD"], check=True)
    address = str(folder / "tests.socket")
    for module, session in sessions.items():
        _write_configuration(session.with_suffix(".toml"), module, GROUPS[group][module], address, seconds)
    if not all(session.is_file() for session in sessions.values()):
        for session in sessions.values():
            session.unlink(missing_ok=True)
            _cosmic_ray(clone, "init", session.with_suffix(".toml"), session)
        _sample(sessions, mutants)
    for module, session in sessions.items():
        if (clone / module).read_bytes() != before[module]:  # other mutants: as many as before
            tried = _tried(session)
            session.unlink()
            _cosmic_ray(clone, "init", session.with_suffix(".toml"), session)
            _sample({module: session}, tried)
        elif again:
            _forget_survivors(session)
    environment = dict(os.environ, PYTHONPATH=str(clone), OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    Path(address).unlink(missing_ok=True)
    server = subprocess.Popen(
        [sys.executable, __file__, "--folder", folder, "--serve", address, str(seconds)], cwd=clone, env=environment
    )
    try:
        while not Path(address).exists():
            if server.poll() is not None:
                sys.exit(f"{group}: the process that runs the tests ended with {server.returncode}")
            time.sleep(0.1)
        for module, session in sessions.items():
            print(f"{group}: {module}", flush=True)
            _cosmic_ray(clone, "baseline", session.with_suffix(".toml"))  # fails where the tests do without a change
            _cosmic_ray(clone, "exec", session.with_suffix(".toml"), session)
    finally:
        server.terminate()


def _write_configuration(path: Path, module: str, tests: str, address: str, seconds: float) -> None:
    asking = (
        f"import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('{address}'); s.sendall(b'{tests}'); "
        f"answer = s.recv(8); answer or print('{LATE}'); sys.exit(int(answer or 9))"
    )
    command = f'{sys.executable} -S -E -c "{asking}"'
    path.write_text(
        f"[cosmic-ray]\nmodule-path = {json.dumps(module)}\ntimeout = {PATIENCE * seconds}\nexcluded-modules = []\n"
        f'test-command = {json.dumps(command)}\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _cosmic_ray(clone: Path, verb: str, *files: Path) -> None:
    command = Path(sys.executable).with_name("cosmic-ray")
    subprocess.run([command, verb, *files], cwd=clone, check=True, stdout=subprocess.DEVNULL)


def _sample(sessions: dict[str, Path], mutants: int) -> None:
    """Leave ``mutants`` of all modules' mutants to be tried, drawn by the fixed seed; skip the others."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    everything: list[tuple[Any, ...]] = []
    for module, session in sessions.items():
        with use_db(session, WorkDB.Mode.open) as database:
            for item in database.work_items:
                change = item.mutations[0]
                if not change.operator_name.startswith(NOT_IN_ANNOTATIONS):
                    everything.append((module, change.start_pos, change.operator_name, change.occurrence, item.job_id))
    everything.sort(key=lambda one: one[:4])
    drawn = {one[-1] for one in random.Random(SEED).sample(everything, min(mutants, len(everything)))}
    for session in sessions.values():
        with use_db(session, WorkDB.Mode.open) as database:
            skipped = [item.job_id for item in database.work_items if item.job_id not in drawn]
            database.set_multiple_results(skipped, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def _forget_survivors(session: Path) -> None:
    with sqlite3.connect(session) as database:
        database.execute("DELETE FROM work_results WHERE test_outcome = 'SURVIVED'")


def _tried(session: Path) -> int:
    query = "SELECT count(*) FROM work_results WHERE worker_outcome <> 'SKIPPED'"
    with sqlite3.connect(session) as database:
        return int(database.execute(query).fetchone()[0])


# --- tests in a process that has imported the large libraries already ------------------------------------------------


def _serve(address: str, seconds: float) -> None:
    """Run pytest on the files that a client names, in a child of its own, and answer with its exit status."""
    import importlib

    sys.path[0] = os.getcwd()
    for name in PRELOADED:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "mdkd_auto"]:
        del sys.modules[name]  # what they import stays; they themselves are read again, with the change
    Path(address).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
            tests = client.recv(4096).decode().split()
            client.sendall(str(_run_tests(tests, Path(address).with_suffix(".log"))).encode())
            os._exit(0)
        client.close()


def _run_tests(tests: list[str], log: Path) -> int:
    import pytest

    with open(log, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))


# --- the record ------------------------------------------------------------------------------------------------------


def _report(folder: Path) -> None:
    """Counts and survivors of each group, as JSON; a table on the screen."""
    from cosmic_ray.work_db import WorkDB, use_db

    record: dict[str, Any] = {"seed": SEED, "groups": {}}
    print("| group | tried | killed | of these out of time | survived |\n|---|---|---|---|---|")
    for group, modules in GROUPS.items():
        outcomes = []
        for module in modules:
            session = folder / group / f"{Path(module).stem}.sqlite"
            if not session.is_file():
                continue
            with use_db(session, WorkDB.Mode.open) as database:
                changes = {item.job_id: item.mutations[0] for item in database.work_items}
                outcomes += [
                    (module, changes[job], result)
                    for job, result in database.results
                    if result.worker_outcome.value != "skipped"
                ]
        if not outcomes:
            continue
        survived = [
            (module, change, result)
            for module, change, result in outcomes
            if result.test_outcome is not None and result.test_outcome.value == "survived"
        ]
        late = sum(result.output == "timeout" or LATE in (result.output or "") for _, _, result in outcomes)
        record["groups"][group] = {
            "tried": len(outcomes),
            "killed": len(outcomes) - len(survived),
            "out_of_time": late,
            "survivors": [
                {
                    "module": module,
                    "line": change.start_pos[0],
                    "operator": change.operator_name,
                    "change": _changed_lines(result.diff or ""),
                }
                for module, change, result in survived
            ],
        }
        print(f"| {group} | {len(outcomes)} | {len(outcomes) - len(survived)} | {late} | {len(survived)} |")
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"-> {RECORD}")


def _changed_lines(diff: str) -> list[str]:
    return [line for line in diff.splitlines() if line[:1] in "+-" and line[1:3] != 2 * line[:1]]


if __name__ == "__main__":
    if shutil.which("git") is None:
        sys.exit("git is needed: the mutants live in a clone")
    main()
