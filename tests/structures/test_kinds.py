"""Kinds of output by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from mtnet.decoded import DECODERS
from mtnet.evaluation.tasks import METRICS
from mtnet.inference.mergers import MERGERS
from mtnet.losses import LOSSES
from mtnet.structures import OutputSpec, kinds
from mtnet.structures.kinds import BUILT_IN, of_kind


@pytest.fixture(name="installed")
def _installed(monkeypatch):
    entries = [
        EntryPoint("points", "tests.structures.test_kinds:BROUGHT", kinds.KIND_GROUP),
        EntryPoint("gone", "no_such_package.kind", kinds.KIND_GROUP),
    ]
    monkeypatch.setattr(kinds, "entry_points", lambda group: entries)


BROUGHT = SimpleNamespace(merger="its merger", loss="its loss")


def test_every_built_in_kind_has_every_part():
    for table in (MERGERS, DECODERS, LOSSES, METRICS):
        assert tuple(table) == BUILT_IN


def test_what_an_installed_package_brings_is_found_by_the_kinds_name(installed):
    assert of_kind("points", "merger", MERGERS) == "its merger"
    assert of_kind("points", "loss", LOSSES) == "its loss"
    assert of_kind("dense", "merger", MERGERS) is MERGERS["dense"]
    assert OutputSpec("marks", "points", strides=(4, 8)).tensor_names == ("marks_s4", "marks_s8")
    assert OutputSpec("marks", "points", strides=(4,)).tensor_names == ("marks",)


@pytest.mark.parametrize(
    ("kind", "part", "words"),
    [
        ("points", "decoder", "test_kinds:BROUGHT', which brings it, has no decoder"),
        ("gone", "merger", "'no_such_package.kind', which cannot be loaded .*Install its package again"),
        ("dens", "merger", "'dens' is unknown; known are dense, boxes, global, gone, points"),
    ],
)
def test_what_is_not_there_is_named(installed, kind, part, words):
    with pytest.raises(ValueError, match=words):
        of_kind(kind, part, {})


def test_a_kind_that_nobody_knows_is_refused_where_an_output_is_described(installed):
    with pytest.raises(ValueError, match="'dens' is unknown"):
        OutputSpec("pred", "dens", strides=(1,))
