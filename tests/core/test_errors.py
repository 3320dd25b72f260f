import inspect

import pytest

from mdkd_auto.core import errors
from mdkd_auto.core.errors import ImageError, MdkdError


def test_every_error_is_the_users_to_fix() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) >= 8
    assert all(issubclass(kind, MdkdError) for kind in kinds)


@pytest.mark.parametrize(("arguments", "kind"), [(("gone",), "unreadable"), (("cut off", "truncated"), "truncated")])
def test_an_image_error_carries_its_kind(arguments: tuple[str, ...], kind: str) -> None:
    error = ImageError(*arguments)
    assert (str(error), error.kind) == (arguments[0], kind)
