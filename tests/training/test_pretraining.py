"""Pre-training on images alone, and what its weights may begin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtnet.bundle import Bundle
from mtnet.nets import read_state
from mtnet.sources.manifest import Manifest, read_manifest, write_manifest
from mtnet.training import HiddenParts, note_sources, redrawing_network, started_from
from tests.bundles import write_random_bundle
from tests.training.made import write_pictures

OVERLAY = Path(__file__).parents[2] / "data" / "pretraining.json"
BUNDLES = ("breast_ultrasound_multitask", "unet_v2_polyp", "yolo_med_polyp", "res_mtnet_nodule")


@pytest.mark.parametrize("edge", [4, 5])
def test_hidden_squares_are_empty_and_the_target_is_the_whole_image(edge: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(6, 3, 32, 48) + 1
    seen, targets = HiddenParts(0.5, edge, noise=0.0)({"image": image})
    hidden = (seen == 0).all(1)
    assert torch.equal(seen == 0, hidden[:, None].expand_as(seen)), "all channels are hidden together"
    assert torch.equal(seen[seen != 0], image[seen != 0])
    assert 0.4 < hidden.float().mean() < 0.6
    first = hidden[:, :edge, :edge].flatten(1).float().mean(1)
    assert ((first == 0) | (first == 1)).all(), "a square is hidden as a whole"
    torch.testing.assert_close(targets["reconstruction"], image.mean(1, keepdim=True))


def test_validation_hides_the_same_places_each_time_and_training_others() -> None:
    image = torch.rand(2, 1, 16, 16, 16) + 1
    fixed, free = HiddenParts(edge=4, seed=3), HiddenParts(edge=4)
    assert torch.equal(fixed({"image": image})[0], fixed({"image": image})[0])
    assert not torch.equal(free({"image": image})[0], free({"image": image})[0])
    for share, edge in ((1.0, 4), (0.5, 0)):
        with pytest.raises(ValueError, match="HiddenParts"):
            HiddenParts(share, edge)


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_takes_the_pretrained_encoder_as_it_is(name: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "bundles" / name
    redrawing = redrawing_network(root)
    channels = next(w.shape[1] for w in redrawing.encoder.state_dict().values() if w.ndim >= 4)
    size = (64,) * (next(w.ndim for w in redrawing.encoder.state_dict().values() if w.ndim >= 4) - 2)
    with torch.no_grad():
        redrawn = redrawing.eval()(torch.zeros(1, channels, *size))
    assert {key: tuple(value.shape) for key, value in redrawn.items()} == {"reconstruction": (1, 1, *size)}
    from mtnet.nets import save_state

    save_state(redrawing, tmp_path / "model.pt")
    network = started_from(Bundle.read(root).build("network_def"), str(tmp_path / "model.pt"))
    kept = read_state(tmp_path / "model.pt")
    own = {key: value for key, value in network.state_dict().items() if key.startswith("encoder.")}
    assert own and all(torch.equal(value, kept[key].to(value.dtype)) for key, value in own.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_bundles_training_becomes_pretraining_by_one_more_file_and_learns_to_redraw(tmp_path: Path) -> None:
    from monai.bundle import run

    root = write_random_bundle("breast_ultrasound_multitask", tmp_path / "bundle", size=[64, 64])
    manifest = write_pictures(tmp_path / "pictures", 12)
    train = json.loads((root / "configs" / "train.json").read_text())
    run(
        config_file=[str(root / "configs" / "train.json"), str(OVERLAY)],
        bundle_root=str(root),
        manifest=str(manifest),
        work_dir=str(tmp_path / "work"),
        weights=str(tmp_path / "pretrained.pt"),
        size=[64, 64],
        batch_size=4,
        max_epochs=3,
        warm_up_epochs=1,
        learning_rate=0.003,
        precision="float32",
        workers=0,
        cache_gib=0.5,
    )
    assert train["initial_weights"] is None
    curve = json.loads((tmp_path / "work" / "curve.json").read_text())["epochs"]
    losses = [epoch["loss"]["reconstruction"] for epoch in curve]
    assert len(losses) == 3 and losses[-1] < losses[0]
    beside = json.loads((tmp_path / "pretrained.pt.sources.json").read_text())
    assert beside == [{"name": "made", "licence": "CC0-1.0", "terms": "free"}]
    network = started_from(Bundle.read(root).build("network_def"), str(tmp_path / "pretrained.pt"), str(manifest))
    kept = read_state(tmp_path / "pretrained.pt")
    assert any(
        torch.equal(value, kept[key].to(value.dtype)) for key, value in network.state_dict().items() if key in kept
    )


def with_terms(manifest: Path, *terms: str) -> Path:
    """The manifest with the images of a source under each of these terms."""
    told = read_manifest(manifest)
    sources = [replace(told.sources[0], name=f"made{n}", terms=one) for n, one in enumerate(terms)]
    samples = [
        replace(sample, id=f"{s.name}/{n}", source=s.name, group=f"{s.name}:{n}")
        for s in sources
        for n, sample in enumerate(told.samples)
    ]
    path = manifest.with_name(f"{'_'.join(terms)}.json")
    write_manifest(Manifest(tuple(sources), tuple(samples)), path)
    return path


def test_licence_classes_are_never_crossed(tmp_path: Path) -> None:
    manifest, weights = write_pictures(tmp_path / "pictures"), tmp_path / "model.pt"
    with pytest.raises(ValueError, match="mixes licence classes"):
        note_sources(with_terms(manifest, "free", "research_only"), weights)
    network = torch.nn.Linear(2, 2)
    torch.save(network.state_dict(), weights)
    note_sources(with_terms(manifest, "research_only"), weights)
    with pytest.raises(ValueError, match="pre-trained on made0 \\(research_only\\)"):
        started_from(network, str(weights), str(with_terms(manifest, "non_commercial")))
    freer = tmp_path / "freer.pt"
    torch.save(network.state_dict(), freer)
    with pytest.raises(ValueError, match="pre-trained on made0 \\(research_only\\)"):
        started_from(network, [str(freer), str(weights)], str(with_terms(manifest, "non_commercial")))
    assert started_from(network, str(weights), str(with_terms(manifest, "research_only"))) is network
    note_sources(with_terms(manifest, "free"), weights)
    assert started_from(network, str(weights), str(with_terms(manifest, "research_only"))) is network
