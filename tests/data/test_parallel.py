"""Many cases at once: results in order, bad cases named, a dead worker survived."""

from mdkd_auto.data.parallel import map_cases
from mdkd_auto.errors import ImageError


def double(value: int) -> int:
    if value < 0:
        raise ImageError(f"{value} is negative")
    return 2 * value


def test_a_bad_case_is_named_and_the_others_go_on() -> None:
    seen: list[tuple[int, int]] = []
    results, problems = map_cases(double, {"a": 1, "b": -1, "c": 3}, 1, lambda done, total: seen.append((done, total)))
    assert results == {"a": 2, "c": 6}
    assert problems == {"b": "-1 is negative"}
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_unforeseen_error_is_collected_too() -> None:
    _, problems = map_cases(len, {"a": 5}, 1)  # type: ignore[arg-type,dict-item]
    assert problems["a"].startswith("TypeError")


def test_workers_give_the_same_in_the_same_order() -> None:
    results, problems = map_cases(str, {"a": 1, "b": 2, "c": 3}, 2)
    assert list(results.items()) == [("a", "1"), ("b", "2"), ("c", "3")]
    assert problems == {}


def test_a_dead_worker_names_its_cases_and_the_rest_are_done() -> None:
    items = {"slow": "__import__('time').sleep(1)", "kills": "__import__('os')._exit(1)", "c": "3", "d": "4"}
    results, problems = map_cases(eval, items, 2)  # a builtin, which a spawned worker can import
    assert "kills" in problems
    assert "a worker process died" in problems["kills"]
    assert set(results) | set(problems) == set(items)
    assert results["d"] == 4
