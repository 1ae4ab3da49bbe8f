from __future__ import annotations

import pydicom
import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr.codedict import codes

from mtnet.results.codes import ABNORMAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE, LESION_TYPES, lesion_region, lesion_type
from mtnet.structures import Code, Label


@pytest.mark.skipif(int(pydicom.__version__.split(".")[0]) < 3, reason="pydicom 2 has the tables of an older edition")
@pytest.mark.parametrize("concept", [ABNORMAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE, *LESION_TYPES.values()])
def test_every_code_is_in_the_context_group_that_the_table_names(concept: object) -> None:
    group = getattr(codes, f"cid{concept.cid}")  # type: ignore[attr-defined]
    assert concept.cid in cid_concepts  # type: ignore[attr-defined]
    listed = {
        (code.value, code.scheme_designator, code.meaning) for code in (getattr(group, name) for name in group.dir())
    }
    code = concept.code  # type: ignore[attr-defined]
    assert (code.value, code.scheme, code.meaning) in listed


@pytest.mark.parametrize(
    ("name", "value"),
    [("nodule", "27925004"), ("Lung nodule", "27925004"), ("lung_mass", "4147007"), ("polyp-like thing", "52988006")],
)
def test_a_label_name_finds_its_code_or_that_of_any_lesion(name: str, value: str) -> None:
    assert lesion_type(name).value == value


def test_the_code_of_the_label_itself_comes_first() -> None:
    label = Label(1, "nodule", code=Code("1", "99TEST", "mine"), region=Code("2", "99TEST", "here"))
    assert lesion_type("nodule", (label,)).meaning == "mine"
    assert lesion_region("nodule", (label,)) == label.region
    assert lesion_region("mass", (label,)) is None
