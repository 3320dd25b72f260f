"""JSON read strictly: what the standard or Python lets through and no sound file holds is refused, with its place."""

import json
from typing import Any, NoReturn

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.text import is_utf8, shown

DEEPEST_JSON = 100  # lists and objects within each other
LARGEST_NUMBER = 1e40  # holds identifiers of 128 bits; float32 ends at 3e38
_TOO_DEEP = f"not valid JSON: lists and objects within each other, more than {DEEPEST_JSON} deep"


class _NotJSON(Exception):
    """What is wrong, then the steps to it from the inside out."""


def parse_json(content: bytes, where: str, any_number: bool = False) -> Any:
    """The value of a JSON text in UTF-8, -16 or -32, with or without a byte order mark; ``where`` begins a message.

    Raises MdkdError naming the place for what is not JSON and for what no sound file holds: a key twice in an object,
    NaN, infinities and numbers beyond ``LARGEST_NUMBER`` (unless ``any_number``), text with a NUL character or half a
    surrogate pair, nesting beyond ``DEEPEST_JSON``.
    """
    try:
        text = content.decode(json.detect_encoding(content))
        if not text.strip("\0 \t\r\n"):
            _refuse("holds zero bytes alone: copy or write it again" if text.strip() else "is empty")
        value = json.loads(text, object_pairs_hook=_without_twins)
        _check_json([value], any_number, 0)
    except UnicodeDecodeError as error:
        raise MdkdError(f"{where}: not UTF-8 text ({error})") from None
    except json.JSONDecodeError as error:
        raise MdkdError(f"{where}: not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except _NotJSON as error:
        found, *steps = error.args
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(steps[:-1]))
        raise MdkdError(f"{where}: {found}{f' - at `${place}`' if steps else ''}") from None
    except RecursionError:
        raise MdkdError(f"{where}: {_TOO_DEEP}") from None
    except ValueError:  # Python parses no whole numbers of thousands of digits
        raise MdkdError(f"{where}: not valid JSON: it holds a number of thousands of digits") from None
    return value


def _refuse(found: str) -> NoReturn:
    raise _NotJSON(found)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        _refuse(f"not valid JSON: key {shown(twin)} is there twice in one object; keep the one that is right")
    return content


def _check_json(content: dict[str, Any] | list[Any], any_number: bool, depth: int) -> None:
    """Raise _NotJSON for what JSON or Python lets through and no file of ours or of other programs should hold."""
    if depth > DEEPEST_JSON:
        _refuse(_TOO_DEEP)
    step: str | int = 0
    try:
        for step, value in content.items() if isinstance(content, dict) else enumerate(content):
            if isinstance(value, (dict, list)):
                _check_json(value, any_number, depth + 1)
            elif isinstance(value, str):
                _check_text(value)
            elif not any_number and isinstance(value, (int, float)) and not -LARGEST_NUMBER < value < LARGEST_NUMBER:
                _refuse(f"{shown(value)} is no number to work with; expected a finite one, up to {LARGEST_NUMBER:g}")
            if isinstance(step, str):
                _check_text(step)
    except _NotJSON as error:
        raise _NotJSON(*error.args, step) from None


def _check_text(text: str) -> None:
    if "\0" in text or not is_utf8(text):
        _refuse(f"{shown(text)} holds a NUL character or half a surrogate pair, which no text does")
