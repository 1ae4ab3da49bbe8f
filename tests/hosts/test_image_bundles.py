"""The bundles for 2D images: their configs as data and under MONAI, and what they say while they have no weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image as PILImage

from mtnet.bundle import PARTS, Bundle
from mtnet.cli import main
from mtnet.nets import save_state
from mtnet.predictor import Predictor
from tests.hosts.monai_metadata import METADATA_20240725

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = ("unet_v2_polyp", "breast_ultrasound_multitask", "yolo_med_polyp")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(name="picture")
def _picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def configs(name: str) -> dict[str, str]:
    folder = BUNDLES / name / "configs"
    return {"config_file": str(folder / "inference.json"), "meta_file": str(folder / "metadata.json")}


def with_random_weights(name: str, folder: Path) -> Path:
    shutil.copytree(BUNDLES / name, folder, ignore=shutil.ignore_patterns("models"))
    bundle = Bundle.read(folder)
    bundle.weights.parent.mkdir()
    torch.manual_seed(0)
    save_state(bundle.build("network_def"), bundle.weights)
    metadata = {**bundle.metadata, "weights_sha256": hashlib.sha256(bundle.weights.read_bytes()).hexdigest()}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_is_complete_and_read_as_data(name):
    bundle = Bundle.read(BUNDLES / name)
    for part in PARTS:
        assert bundle.build(part) is not None
    domain = bundle.input_domain()
    assert domain is not None and domain.spatial_dims == 2
    for file in ("LICENSE", "WEIGHTS_LICENSE", "docs/README.md", "docs/data_license.txt"):
        assert (BUNDLES / name / file).read_text(encoding="utf-8")
    assert "Research use only" in bundle.metadata["intended_use"]


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_describe_every_output_of_the_network(name):
    bundle = Bundle.read(BUNDLES / name)
    told = bundle.metadata["network_data_format"]["outputs"]
    with torch.no_grad():
        made = bundle.build("network_def").eval()(torch.zeros(1, 3, 64, 64))
    assert list(told) == list(made)
    for key, tensor in made.items():
        assert told[key]["num_channels"] == tensor.shape[1] == len(told[key]["channel_def"])
        assert [int(text.removesuffix("*n")) * 2 for text in told[key]["spatial_shape"]] == list(tensor.shape[2:])


@pytest.mark.parametrize("name", NAMES)
def test_monai_finds_every_property_and_the_shapes_that_the_metadata_tell(name, tmp_path):
    made = ConfigWorkflow(**configs(name), workflow_type="infer", logging_file=False, device="cpu")
    made.initialize()
    assert made.check_properties() == []
    verify_net_in_out("pred_view", **configs(name), device="cpu")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(METADATA_20240725), encoding="ascii")
    digest = hashlib.sha256(schema.read_bytes()).hexdigest()
    verify_metadata(configs(name)["meta_file"], filepath=str(schema), hash_val=digest, hash_type="sha256")


@pytest.mark.parametrize("name", NAMES)
def test_without_weights_it_says_so_and_answers_nothing(name, picture, tmp_path, capsys):
    if (BUNDLES / name / "models" / "model.pt").exists():
        pytest.skip("it has weights")
    assert main.main(["infer", str(picture), str(tmp_path / "out"), "--bundle", str(BUNDLES / name)]) != 0
    assert "the bundle has no weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_with_weights_it_answers_a_picture_on_its_own_pixels(name, picture, tmp_path):
    predictor = Predictor.from_bundle(with_random_weights(name, tmp_path / "bundle"), device="cpu")
    found = predictor.run(picture)
    assert found.label_map is not None and found.label_map.array.shape == (1, 80, 48, 1)
    assert [label.value for label in found.labels] == [1]
    assert len(found.image_classes) == (3 if name.startswith("breast") else 0)
