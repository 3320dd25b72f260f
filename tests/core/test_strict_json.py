"""What is refused of a JSON text, where it is, and which encodings are read."""

import math

import pytest

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.strict_json import DEEPEST_JSON, parse_json

TEXT = '{"name": "Größe", "sizes": [1, 2.5]}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(encoding: str) -> None:
    assert parse_json(TEXT.encode(encoding), "a.json") == {"name": "Größe", "sizes": [1, 2.5]}


def nested(depth: int) -> bytes:
    return b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\0" * 64, "zero bytes alone"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b'{"a": "\xe9"}', "not UTF-8 text"),
        (b'{"a": 1,}', "line 1, column 9"),
        (b'{"a": 1} {"a": 1}', "Extra data"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "key 'b' is there twice"),
        (b'{"a": [1, NaN]}', "nan is no number to work with; expected a finite one, up to 1e+40 - at `$.a[1]`"),
        (b'{"a": -Infinity}', "-inf is no number"),
        (b'{"a": 1e999}', "inf is no number"),
        (b"[" + b"9" * 400 + b"]", "999... is no number"),
        (b"[" + b"9" * 5000 + b"]", "thousands of digits"),
        (
            b'{"a": [{"b": "x\\u0000"}]}',
            "'x\\x00' holds a NUL character or half a surrogate pair, which no text does - at `$.a[0].b`",
        ),
        (b'["\\ud83d"]', "half a surrogate"),
        (b'{"\\udcfc": 1}', "half a surrogate"),
        (nested(DEEPEST_JSON + 2), "within each other, more than 100 deep"),
        (nested(50_000), "within each other, more than 100 deep"),
    ],
)
def test_refused(content: bytes, words: str) -> None:
    with pytest.raises(MdkdError) as caught:
        parse_json(content, "folder/a.json")
    assert str(caught.value).startswith("folder/a.json: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_read() -> None:
    assert parse_json(nested(DEEPEST_JSON), "a.json")
    assert parse_json(b'["\\ud83d\\ude00"]', "a.json") == ["\N{GRINNING FACE}"]  # a whole pair
    assert parse_json(b"[340282366920938463463374607431768211455]", "a.json") == [2**128 - 1]
    nan, large = parse_json(b"[NaN, 1" + b"0" * 400 + b"]", "a.json", any_number=True)
    assert math.isnan(nan)
    assert large == 10**400
