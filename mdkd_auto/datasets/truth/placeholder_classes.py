"""Names that annotation tools give to non-objects: training a class on them would teach nothing, or noise."""

BACKGROUNDS = frozenset({"background", "bg"})
OTHERS = frozenset(
    {
        "na",
        "nan",
        "nil",
        "none",
        "null",
        "void",
        "empty",
        "nothing",
        "noobject",
        "noobjects",
        "nofinding",
        "nofindings",
        "nolesion",
        "nolesions",
        "ignore",
        "ignored",
        "ignoredregion",
        "ignoredregions",
        "dontcare",
    }
)


def is_background(name: str) -> bool:
    """``background``, ``_background_``, ``BG`` and the like."""
    return _letters(name) in BACKGROUNDS


def is_no_object(name: str) -> bool:
    """Whether a name is a background, or one of ``N/A``, ``none``, ``No finding``, ``ignore`` and the like."""
    return _letters(name) in BACKGROUNDS | OTHERS


def _letters(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())
