"""Weights between those that a training began with and those that it ended with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.blend import blend, main
from mtnet.bundle import Bundle
from mtnet.nets import read_state, save_state
from tests.bundles import write_tiny_bundle


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle, and ``trained.pt`` beside it: other random weights."""
    place = tmp_path_factory.mktemp("blend")
    bundle = Bundle.read(write_tiny_bundle(place / "tiny"))
    torch.manual_seed(7)
    save_state(bundle.build("network_def"), place / "trained.pt")
    return place


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_tensor_lies_its_share_of_the_way_between_both(place: Path, tmp_path: Path, share: float) -> None:
    began, trained, out = place / "tiny" / "models" / "model.pt", place / "trained.pt", tmp_path / "blended.pt"
    blend(place / "tiny", began, trained, share, out)
    first, last, found = read_state(began), read_state(trained), read_state(out)
    assert found.keys() == first.keys() == last.keys()
    for name, tensor in found.items():
        assert torch.allclose(tensor, (1 - share) * first[name] + share * last[name], rtol=1e-3, atol=1e-6), name
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_a_share_that_is_none_is_refused_and_nothing_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blended.pt"
    began = str(place / "tiny" / "models" / "model.pt")
    with pytest.raises(SystemExit):
        main([str(place / "tiny"), began, str(place / "trained.pt"), "75", str(out)])
    assert "expected 0 (as the training began) to 1" in capsys.readouterr().err
    assert not out.exists()
