import pytest

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.file_endings import ENDINGS, ends_in, image_ending, is_image, is_planar, output_ending, spellings


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings_count_in_capitals_too(ending: str) -> None:
    for written in (ending, ending.upper()):
        assert image_ending(f"folder.nii/case_0000{written}") == ending
        assert is_image(f"case{written}")
        assert ends_in(f"case{written}", ending)


@pytest.mark.parametrize("name", ["case.gz", "case.txt", ".nii.gz", "case", "case.nii.gz.part"])
def test_other_files_are_no_images(name: str) -> None:
    assert not is_image(name)
    with pytest.raises(ImageError, match=r"endings: \.nii\.gz"):
        image_ending(name)


def test_masks_keep_the_ending_but_where_it_cannot_hold_labels() -> None:
    changed = {ending: output_ending(ending) for ending in ENDINGS if output_ending(ending) != ending}
    assert changed == {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha"}
    assert output_ending(".JPG") == ".png"


def test_planar_files_have_their_top_row_first() -> None:
    assert [name for name in ("a.PNG", "a.tif", "a.nii", "a.mha") if is_planar(name)] == ["a.PNG", "a.tif"]


def test_spellings_name_each_way_once() -> None:
    assert spellings(".png") == (".png", ".PNG")
    assert spellings(".Nii.gz") == (".nii.gz", ".NII.GZ", ".Nii.gz")
