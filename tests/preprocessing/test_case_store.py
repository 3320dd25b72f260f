import numpy as np
import pytest

from mdkd_auto.preprocessing.case_store import compact_label


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, 1], np.int8), ([-1, 127], np.int8), ([0, 128], np.int16), ([-129, 0], np.int16), ([], np.int8)],
)
def test_labels_take_one_byte_where_they_fit(values: list[int], kind: type) -> None:
    stored = compact_label(np.array(values, dtype=np.int64))
    assert stored.dtype == kind
    assert stored.tolist() == values
