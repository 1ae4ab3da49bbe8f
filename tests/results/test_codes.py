from __future__ import annotations

import pydicom
import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr.codedict import codes

from mtnet.results import codes as table
from mtnet.results.codes import (
    LESION_TYPES,
    PROCEDURES,
    Concept,
    lesion_region,
    lesion_type,
    private_code,
    unit_of,
    without_unit,
)
from mtnet.structures import Code, Label

CONCEPTS = [value for value in vars(table).values() if isinstance(value, Concept)]


@pytest.mark.skipif(int(pydicom.__version__.split(".")[0]) < 3, reason="pydicom 2 has the tables of an older edition")
@pytest.mark.parametrize("concept", [*CONCEPTS, *LESION_TYPES.values(), *PROCEDURES.values()])
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


@pytest.mark.skipif(int(pydicom.__version__.split(".")[0]) < 3, reason="pydicom 2 has the tables of an older edition")
def test_every_name_of_a_content_item_and_the_units_of_lesions_are_known_to_pydicom() -> None:
    from pydicom.sr._concepts_dict import concepts

    # What highdicom calls an image of the library; the template has no name for it.
    named = [value for value in vars(table).values() if isinstance(value, Code) and value != table.LIBRARY_IMAGE]
    named += [Code(value, "DCM", meaning) for value, meaning in table.MODALITIES.items()]
    for code in (*named, *(table.UNITS[end] for end in ("_mm", "_mm2", "_mm3", "_hu"))):
        known = {(v, meaning) for entry in concepts[code.scheme].values() for v, (meaning, _) in entry.items()}
        assert (code.value, code.meaning) in known, code


def test_a_private_code_fits_a_code_value_and_is_the_same_in_every_run() -> None:
    short, long = private_code("score", "Detection score"), private_code("p.texture.ground-glass opacity", "x" * 99)
    assert (short.value, short.scheme) == ("score", "99MTNET")
    assert long.value == "p.textu-4024668b" and len(long.meaning) == 64
    assert private_code("p.texture.ground-glass opacities", "x").value != long.value


@pytest.mark.parametrize(
    ("key", "unit", "name"),
    [
        ("volume_mm3", "mm3", "volume"),
        ("longest_axial_diameter_mm", "mm", "longest_axial_diameter"),
        ("mean_absolute_error_hu", "[hnsf'U]", "mean_absolute_error"),
        ("reader_suspicion", "1", "reader_suspicion"),
    ],
)
def test_a_key_tells_its_unit(key: str, unit: str, name: str) -> None:
    assert (unit_of(key).value, without_unit(key)) == (unit, name)
