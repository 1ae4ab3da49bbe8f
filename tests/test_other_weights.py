"""Weights that a bundle offers beside its own, each with its own terms, labels and images that it is made for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from mtnet.bundle import Bundle, BundleError
from mtnet.cli.main import main
from mtnet.hosts.batch.tasks import Settings
from mtnet.hosts.monai_bundle import StudyRun
from mtnet.nets import save_state
from mtnet.predictor import Predictor
from tests.bundles import write_random_bundle

SKIN = {
    "training_data": "pictures of skin",
    "weights_licence": "CC0-1.0",
    "eval_metrics": {"skin_dice": 0.5},
    "config": {"labels": ["skin lesion"], "size": [64, 32], "decoder": "unet_v2"},
    "input_domain": {"spatial_dims": 2, "colour": "colour", "modalities": ["DMS"]},
}


@pytest.fixture
def offering(tmp_path: Path) -> Path:
    """A bundle that outlines polyps, with further weights ``skin.pt``."""
    folder = write_random_bundle("unet_v2_polyp", tmp_path / "bundle", size=[32, 32])
    bundle = Bundle.read(folder)
    torch.manual_seed(1)
    skin = folder / "models" / "skin.pt"
    bundle.config["decoder"] = "unet_v2"
    save_state(bundle.build("network_def"), skin)
    told = {"skin.pt": {**SKIN, "weights_sha256": hashlib.sha256(skin.read_bytes()).hexdigest()}}
    (folder / "configs" / "metadata.json").write_text(json.dumps({**bundle.metadata, "other_weights": told}))
    return folder


def test_weights_that_a_bundle_offers_come_by_name_with_their_own_terms_labels_domain_and_size(offering):
    own = Predictor.from_bundle(offering)
    for weights in ("skin.pt", offering / "models" / "skin.pt"):
        other = Predictor.from_bundle(offering, weights=weights)
        assert other.model.training_data == "pictures of skin"
        assert other.model.weights_licence == "CC0-1.0"
        assert other.domain.modalities == ("DMS",)
        label = other.network.outputs[0].labels[0]
        assert (label.name, label.code.value, label.region.value) == ("skin lesion", "95324001", "39937001")
        assert other.preprocessing({"image": torch.zeros(3, 40, 30)})["image"].shape == (3, 64, 32)
    assert own.preprocessing({"image": torch.zeros(3, 40, 30)})["image"].shape == (3, 32, 32)
    assert own.model.weights_sha256 != other.model.weights_sha256
    assert own.network.outputs[0].labels[0].name == "polyp"
    assert own.model.weights_licence != "CC0-1.0"


def test_infer_takes_them_by_name_and_says_whose_they_are(offering, tmp_path, capsys):
    Image.new("RGB", (40, 30), (120, 60, 30)).save(tmp_path / "skin.png")
    asked = ["infer", str(tmp_path / "skin.png"), str(tmp_path / "out"), "--bundle", str(offering)]
    assert main([*asked, "--weights", "skin.pt"]) == 0
    assert "trained on pictures of skin. Weights: CC0-1.0." in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert told["model"]["weights_licence"] == "CC0-1.0"


def test_bundles_lists_them_with_terms_and_scores(offering, monkeypatch, capsys):
    monkeypatch.setenv("MTNET_BUNDLES", str(offering.parent))
    assert main(["bundles"]) == 0
    listed = capsys.readouterr().out
    assert "--weights skin.pt, trained on pictures of skin, licence CC0-1.0; skin_dice 0.5" in listed


def test_those_that_are_damaged_or_not_offered_are_refused(offering, tmp_path):
    (offering / "models" / "skin.pt").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"SHA-256 is .* says another"):
        Predictor.from_bundle(offering, weights="skin.pt")
    with pytest.raises(BundleError, match=r"moles\.pt is missing.*offers skin\.pt"):
        Predictor.from_bundle(offering, weights="moles.pt")


def test_a_batch_with_other_weights_is_another_batch(offering):
    keys = {Settings(str(offering), weights).key() for weights in (None, "skin.pt")}
    assert len(keys) == 2
    assert Settings(str(offering), str(offering / "models" / "skin.pt")).key() in keys


def test_monai_s_run_refuses_them_until_the_network_is_theirs_and_says_where_the_size_is_not(offering, caplog):
    def run(**changes: object) -> StudyRun:
        parser = ConfigParser()
        parser.read_config(str(offering / "configs" / "inference.json"))
        parser.update({"bundle_root": str(offering), "weights": "skin.pt", "device": "cpu", **changes})
        return parser.get_parsed_content("study_run")

    def refused(**changes: object) -> str:
        with pytest.raises((BundleError, RuntimeError)) as caught:
            run(**changes)
        return str(caught.value.__cause__ or caught.value)

    wanted = """run with --labels "['skin lesion']" --decoder "unet_v2" --size "[64, 32]"."""
    assert f"the network has polyp; {wanted}" in refused()
    assert f"skin.pt is for another network; {wanted}" in refused(labels=["skin lesion"])
    given = {"labels": ["skin lesion"], "decoder": "unet_v2"}
    assert run(**given, size=[64, 32]).predictor.model.training_data == "pictures of skin"
    assert not caplog.records
    run(**given)
    assert [line.getMessage() for line in caplog.records] == [
        "skin.pt was trained at size [64, 32], this run has [32, 32]"
    ]
