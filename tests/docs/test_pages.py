"""Pages of the manual: each is of one kind, and what they say about files of the code is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
PLACES = (ROOT, ROOT / "mdkd_auto", ROOT / "tests")
EXAMPLES = {"plain.py", "energy.py", "numpy_file.py"}  # files that docs/extending.md adds
OLD_NAMES = {"objectives.py", "fit.py", "fusion.py", "fusion_attention.py"}  # of the version whose mutants were counted


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def kinds() -> dict[str, str]:
    """Page -> the section of mkdocs.yml that lists it."""
    found, kind = {}, ""
    for line in (ROOT / "mkdocs.yml").read_text(encoding="utf-8").splitlines():
        if section := re.fullmatch(r"  - ([A-Z][a-z -]+):", line):
            kind = section[1]
        elif entry := re.fullmatch(r"      - ([a-z_]+\.md)", line):
            found[entry[1]] = kind
    return found


def test_every_page_is_listed_once() -> None:
    assert sorted(kinds()) == PAGES
    assert set(kinds().values()) == {"Get started", "How-to", "Concepts", "Reference"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_its_kind(page: str) -> None:
    start = text_of(page).split("\n## ")[0]
    assert f"*{kinds()[page]}.*" in start


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    names = re.findall(r"`(?:mdkd_auto/)?((?:[a-z_]+/)*[a-z_]+\.py)(?:: ([A-Za-z_., ]+))?[`(]", text_of(page))
    for path, members in names:
        if Path(path).name in EXAMPLES | OLD_NAMES:
            continue
        files = [place / path for place in PLACES if (place / path).is_file()]
        files = files or [file for place in ("mdkd_auto", "planners", "tests") for file in (ROOT / place).rglob(path)]
        assert files, f"{page} names {path}, which does not exist"
        for member in re.findall(r"[A-Za-z_]+", members):
            assert any(re.search(rf"\b{member}\b", file.read_text(encoding="utf-8")) for file in files), (path, member)


def test_the_readme_is_one_screen_and_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 60
    linked = set(re.findall(r"\(docs/([a-z_]+\.md)\)", readme))
    assert linked == set(PAGES) - {"index.md", "changelog.md"}


def test_pictures_are_small() -> None:
    for file in (DOCS / "images").iterdir():
        assert file.stat().st_size < 150_000, file.name
