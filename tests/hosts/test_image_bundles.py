"""The bundles for 2D images: their configs as data and under MONAI, and what they say while they have no weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from mtnet.bundle import PARTS, Bundle
from mtnet.cli import main
from mtnet.nets import save_state
from mtnet.predictor import Predictor
from tests.bundles import write_random_bundle
from tests.planes import US, US_MULTIFRAME, save, spot, write_dicom
from tests.test_plane_folders import write_video

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = ("unet_v2_polyp", "breast_ultrasound_multitask", "yolo_med_polyp")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(name="picture")
def _picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


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
def test_without_weights_it_says_so_and_answers_nothing(name, picture, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLES / name, bundle, ignore=shutil.ignore_patterns("models"))
    assert main.main(["infer", str(picture), str(tmp_path / "out"), "--bundle", str(bundle)]) != 0
    assert "the bundle has no weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_with_weights_it_answers_a_picture_on_its_own_pixels(name, picture, tmp_path):
    predictor = Predictor.from_bundle(with_random_weights(name, tmp_path / "bundle"), device="cpu")
    found = predictor.run(picture)
    assert found.label_map is not None and found.label_map.array.shape == (1, 80, 48, 1)
    assert [label.value for label in found.labels] == [1]
    assert len(found.image_classes) == (3 if name.startswith("breast") else 0)


ENDOSCOPY, ENDOSCOPY_VIDEO = "1.2.840.10008.5.1.4.1.1.77.1.1", "1.2.840.10008.5.1.4.1.1.77.1.1.1"
CINES = {"ES": (ENDOSCOPY, ENDOSCOPY_VIDEO), "US": (US, US_MULTIFRAME)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_infer_takes_a_dicom_image_pictures_a_cine_and_a_video(name, tmp_path, capsys):
    bundle = write_random_bundle(name, tmp_path / "bundle", size=64 if name.startswith("yolo") else [64, 64])
    modality = Bundle.read(bundle).input_domain().modalities[0]
    image, cine = CINES[modality]
    frames = np.stack([spot((48, 32), (8 * k, 4), (8 * k + 20, 20), samples=3) for k in range(3)])
    folder = tmp_path / "pictures"
    save(folder / "a.png", frames[0])
    save(folder / "b.jpg", frames[1])
    inputs = {
        "dicom": write_dicom(tmp_path / "dicom.dcm", frames[0], image, modality),
        "pictures": folder,
        "cine": write_dicom(tmp_path / "cine.dcm", frames, cine, modality, FrameTime="40"),
        "video": write_video(tmp_path / "video.mkv", 3),
    }
    for kind, path in inputs.items():
        given = tmp_path / "out" / kind
        assert main.main(["infer", str(path), str(given), "--bundle", str(bundle), "--device", "cpu"]) == 0
        clip = kind in ("cine", "video")
        told = "3 frames; from pixels to findings median " in capsys.readouterr().out
        assert told == clip, "how long a frame took is told"
        outs = [file.parent for file in given.rglob("findings.json")]
        assert len(outs) == (2 if kind == "pictures" else 1)
        for out in outs:
            files = {file.name for file in out.iterdir()}
            assert "overlay.png" in files and ("frames.jsonl" in files) == clip
            assert ("overlay.mp4" in files) == clip
            assert ("report.dcm" in files) == (kind in ("dicom", "cine"))
            if clip:
                lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
                assert len(lines) == 3 and all(line["latency_ms"] > 0 for line in lines)
