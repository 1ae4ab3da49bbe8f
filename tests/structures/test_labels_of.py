"""Labels that a person names."""

from __future__ import annotations

import pytest

from mtnet.structures import Code, Label
from mtnet.structures.labels import labels_of

POLYP = Label(1, "polyp", (1, 2, 3), Code("41329004", "SCT", "Polyp"))


def test_known_names_keep_their_codes_and_new_ones_are_numbered_in_their_order():
    assert labels_of(None, (POLYP,), 1) == (POLYP,)
    found = labels_of(["scar", "polyp", Label(9, "tool")], (POLYP,), 1)
    assert [(label.value, label.name) for label in found] == [(1, "scar"), (2, "polyp"), (9, "tool")]
    assert found[1].code == POLYP.code and found[0].code is None


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_no_name_and_a_name_that_comes_twice_are_refused(names):
    with pytest.raises(ValueError, match="one or more different names"):
        labels_of(names, (POLYP,), 1)
