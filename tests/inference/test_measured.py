from __future__ import annotations

import math

import pytest

from mtnet.inference.measured import decode_measured
from mtnet.structures import Label, Measured, OutputSpec


def test_a_value_stands_under_a_key_that_ends_in_its_unit() -> None:
    assert decode_measured([8.5], OutputSpec("diameter", "global", units="mm")) == {"diameter_mm": Measured(8.5, "mm")}
    assert decode_measured([30.0], OutputSpec("mean", "global", units="HU")) == {"mean_hu": Measured(30.0, "HU")}


def test_units_of_several_words_stay_out_of_the_key() -> None:
    rating = OutputSpec("pred", "global", units="rating 1 to 5", title="reader_rating")
    assert decode_measured([3.0], rating) == {"reader_rating": Measured(3.0, "rating 1 to 5")}


def test_a_log_variance_becomes_the_standard_deviation_that_the_network_expects() -> None:
    spec = OutputSpec("diameter", "global", units="mm", log_variance=True)
    assert decode_measured([8.5, 2 * math.log(1.5)], spec)["diameter_mm"].sd == pytest.approx(1.5)


def test_classes_and_values_of_another_number_are_no_measured_value() -> None:
    classes = OutputSpec("pred", "global", (Label(0, "low"), Label(1, "high")), activation="softmax")
    with pytest.raises(ValueError, match="2 labels"):
        decode_measured([0.5, 0.5], classes)
    with pytest.raises(ValueError, match=r"expected \(1,\)"):
        decode_measured([0.5, 0.5], OutputSpec("diameter", "global"))
