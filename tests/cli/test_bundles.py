"""``mtnet bundles`` and ``mtnet describe``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mtnet.bundle_card import read_card
from mtnet.cli import main
from tests.nets.builders import parameters

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = sorted(file.parents[1].name for file in BUNDLES.glob("*/configs/metadata.json"))


@pytest.fixture(name="alone")
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no bundle is found but those that a test puts in ``places``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "places").mkdir()
    monkeypatch.setenv("MTNET_BUNDLES", str(tmp_path / "places"))
    return tmp_path / "places"


def test_json_tells_tasks_input_size_work_and_terms(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(BUNDLES / "chest_ct_multitask", alone / "chest_ct_multitask")
    assert main.main(["bundles", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    from mtnet.systems import chest_ct

    assert told["tasks"] == list(chest_ct.TASKS)
    assert told["outputs"]["detection"] == ["lesions_s4", "lesions_s8"]
    assert (told["input_is"], told["input_shape"]) == ("window", [1, 64, 64, 64])
    assert told["parameters"] == parameters(chest_ct.network()) and told["gmac"] == pytest.approx(10.291544448)
    assert (told["weights"], told["weights_licence"]) == ("published", "CC-BY-3.0 AND CC-BY-4.0")
    card = (BUNDLES / "chest_ct_multitask" / "docs" / "README.md").read_text(encoding="utf-8")
    scores = told["scores"]
    assert (
        f"sensitivity {scores['drawn_chests_sensitivity']:.3f} at "
        f"{scores['drawn_chests_false_boxes_per_scan']:.2f} false boxes" in card
    ), "what the list tells is what the model card tells"
    assert told["input"] == "CT, grey"


def test_a_list_for_people_names_each_bundle_and_its_scores(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(BUNDLES / "chest_ct_multitask", alone / "own", ignore=shutil.ignore_patterns("models"))
    file = folder / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "version": "7.8.9", "eval_metrics": {"mean_dice": 0.8125}}))
    assert main.main(["bundles"]) == 0
    told = capsys.readouterr().out
    for words in ("own 7.8.9", "2,938,590 parameters, 10.292 GMAC for one window", "none yet", "mean_dice 0.8125"):
        assert words in told


@pytest.mark.parametrize(("change", "state"), [(b"changed", "changed"), (None, "trained here")])
def test_weights_that_are_not_the_published_ones_are_told_as_such(
    alone: Path, change: bytes | None, state: str
) -> None:
    folder = shutil.copytree(BUNDLES / "chest_ct_multitask", alone / "own")
    if change:
        (folder / "models" / "model.pt").write_bytes(change)
    else:
        file = folder / "configs" / "metadata.json"
        metadata = json.loads(file.read_text())
        (folder / "models" / "model.pt.sha256").write_text(f"{metadata.pop('weights_sha256')}  model.pt\n")
        file.write_text(json.dumps(metadata))
    assert read_card(folder).weights == state


def test_a_damaged_bundle_is_named_and_the_others_are_listed(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "bad"):
        shutil.copytree(BUNDLES / "chest_ct_multitask", alone / name, ignore=shutil.ignore_patterns("models"))
    version = json.loads((alone / "good" / "configs" / "metadata.json").read_text())["version"]
    (alone / "bad" / "configs" / "inference.json").write_text('{"inferer": {"_target_": "os.system"}}')
    (alone / "worse" / "configs").mkdir(parents=True)
    (alone / "worse" / "configs" / "metadata.json").write_text("{")
    assert main.main(["bundles"]) == 1
    told = capsys.readouterr()
    assert f"good {version}" in told.out and "bad: damaged" in told.err and "os.system" in told.err
    assert "worse: damaged" in told.err and "no valid JSON" in told.err
    assert main.main(["info"]) == 0
    capsys.readouterr()
    assert main.main(["bundles", "--json"]) == 1
    assert [("error" in entry) for entry in json.loads(capsys.readouterr().out)] == [False, True, True]


def test_where_there_is_no_bundle_the_places_are_named(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["bundles"]) == 0
    assert str(alone) in capsys.readouterr().out


def test_describe_prints_the_parts_or_draws_them(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["describe", str(BUNDLES / "chest_ct_multitask")]) == 0
    told = capsys.readouterr().out
    for words in ("UNetDecoder", "lesions_s4 12 × 16 × 16 × 16", "decoder of the neck's levels", "1,393,224"):
        assert words in told
    assert main.main(["describe", str(BUNDLES / "chest_ct_multitask"), "--out", str(alone / "n.png")]) == 0
    assert (alone / "n.png").is_file()
    assert main.main(["describe", str(BUNDLES / "chest_ct_multitask"), "--out", str(alone / "n.pdf")]) == 1
    assert ".svg or .png" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_the_diagram_in_a_model_card_is_what_the_command_beside_it_draws(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"mtnet describe {name} --out bundles/{name}/docs/network.svg" in card and "](network.svg)" in card
    assert main.main(["describe", str(BUNDLES / name), "--out", str(tmp_path / "network.svg")]) == 0
    assert (BUNDLES / name / "docs" / "network.svg").read_bytes() == (tmp_path / "network.svg").read_bytes()
    assert (tmp_path / "network.svg").stat().st_size < 20_000
