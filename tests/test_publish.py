"""Weights of a training on their way into a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.publish import note_digest


def test_the_digest_is_noted_where_these_weights_are_told_of_and_nowhere_else(tmp_path: Path) -> None:
    metadata = tmp_path / "metadata.json"
    told = {"weights_sha256": "model.pt", "other_weights": {"skin.pt": {"weights_sha256": "skin.pt"}}}
    metadata.write_text(json.dumps(told))
    note_digest(metadata, "skin.pt", "ab")
    assert json.loads(metadata.read_text()) == {**told, "other_weights": {"skin.pt": {"weights_sha256": "ab"}}}
    note_digest(metadata, "model.pt", "cd")
    assert json.loads(metadata.read_text()) == {
        "weights_sha256": "cd",
        "other_weights": {"skin.pt": {"weights_sha256": "ab"}},
    }
    with pytest.raises(ValueError, match=r"other_weights#moles\.pt.*there first"):
        note_digest(metadata, "moles.pt", "ef")
