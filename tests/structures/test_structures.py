import dataclasses

import numpy as np
import pytest

from mtnet.structures import (
    Code,
    Findings,
    Geometry,
    InputReport,
    Label,
    Lesion,
    LesionChannel,
    ModelInfo,
    OutputSpec,
    RefusedError,
    ReportLine,
    Source,
    Volume,
)

GRID = Geometry.from_parts((4, 5, 6), (1, 1, 1))
NODULE = Label(1, "nodule")
MODEL = ModelInfo("m", "1.0.0", "0" * 64, "drawn data")


def lesion(number: int) -> Lesion:
    return Lesion(number, "nodule", 0.9, (0, 0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 1), (0.5, 0.5, 0.5), "2.25.1")


def test_structures_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NODULE.name = "other"


def test_a_volume_whose_array_does_not_fit_its_grid_is_refused():
    with pytest.raises(ValueError, match=r"expected \(C, i, j, k\)"):
        Volume(np.zeros((4, 5, 6)), GRID)


def test_a_boxes_output_has_one_tensor_a_level_with_all_its_channels():
    spec = OutputSpec(
        "lesions",
        "boxes",
        labels=(NODULE,),
        strides=(4, 8),
        activation="sigmoid",
        lesion_channels=(LesionChannel("texture", (NODULE, Label(2, "b"), Label(3, "c"))), LesionChannel("diameter")),
    )
    assert spec.tensor_names == ("lesions_s4", "lesions_s8")
    assert spec.box_channels(3) == 1 + 6 + 1 + 3 + 1
    assert spec.box_channels(2) == 1 + 4 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "no good", "kind": "global"}, "identifier"),
        ({"name": "pred", "kind": "dense"}, "expected one stride"),
        ({"name": "b", "kind": "boxes", "strides": (4,)}, "lesion labels"),
        ({"name": "g", "kind": "global", "temperature": 0.0}, "more than 0"),
        ({"name": "g", "kind": "global", "activation": "tanh"}, "activation"),
        ({"name": "g", "kind": "global", "pooling": "median"}, "pooling"),
    ],
)
def test_a_wrong_output_spec_is_refused_by_field(fields, message):
    with pytest.raises(ValueError, match=message):
        OutputSpec(**fields)


def test_a_report_keeps_order_and_says_nothing_twice():
    first = ReportLine("a_code", "note", "One.")
    second = ReportLine("b_code", "refused", "Two.", "file.dcm")
    report = InputReport().plus([first, second]).plus([first])
    assert report.codes == ("a_code", "b_code")
    assert report.refusals == (second,)
    assert "file.dcm" in str(RefusedError(report.refusals))


@pytest.mark.parametrize("fields", [("Bad Code", "note", "m"), ("ok", "error", "m"), ("ok", "note", "")])
def test_a_wrong_report_line_is_refused(fields):
    with pytest.raises(ValueError, match="ReportLine"):
        ReportLine(*fields)


def test_labels_and_codes_say_what_is_wrong():
    with pytest.raises(ValueError, match="colour"):
        Label(1, "x", (0, 0, 300))
    with pytest.raises(ValueError, match="meaning"):
        Code("1", "SCT", "")


def test_lesions_are_numbered_in_order_and_boxes_have_a_size():
    with pytest.raises(ValueError, match="numbered"):
        Findings(GRID, Source(), MODEL, lesions=(lesion(2),))
    with pytest.raises(ValueError, match="lows must be below highs"):
        dataclasses.replace(lesion(1), box_index=(1, 0, 0, 1, 1, 1))
    assert Findings(GRID, Source(), MODEL, lesions=(lesion(1), lesion(2))).lesions[1].number == 2


def test_findings_refuse_a_map_on_another_grid():
    other = Volume(np.zeros((1, 3, 3, 3), np.uint8), Geometry.from_parts((3, 3, 3), (1, 1, 1)))
    with pytest.raises(ValueError, match="label_map"):
        Findings(GRID, Source(), MODEL, label_map=other)
