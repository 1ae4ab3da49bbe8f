"""Our MONAI Label app, from a real server process in its own environment, on every bundle and real images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mtnet.predictor import Predictor
from tests.hosts.label_server import (
    NEEDS_SERVER,
    Server,
    assert_alike,
    check_answer,
    drawn_label,
    one_server_each,
    running_server,
    write_images,
    write_small_bundle,
)

pytestmark = [*NEEDS_SERVER, pytest.mark.study]

TASKS = {
    "unet_v2_polyp": ["segmentation", "boxes"],
    "breast_ultrasound_multitask": ["segmentation", "boxes", "classification"],
    "yolo_med_polyp": ["segmentation", "boxes"],
    "res_mtnet_nodule": ["segmentation", "boxes", "classification"],
    "chest_ct_multitask": ["segmentation", "boxes", "classification", "reconstruction"],
}
STRATEGIES = {
    "unet_v2_polyp": {"uncertainty", "unlike_labelled"},
    "breast_ultrasound_multitask": {"uncertainty", "disagreement", "unlike_labelled"},
    "yolo_med_polyp": {"uncertainty", "disagreement", "unlike_labelled"},
    "res_mtnet_nodule": {"uncertainty", "disagreement", "unlike_labelled"},
    "chest_ct_multitask": {"uncertainty", "disagreement", "unlike_training", "unlike_labelled"},
}
SIDES = {
    "unet_v2_polyp": None,
    "breast_ultrasound_multitask": {"class": "malignant"},
    "yolo_med_polyp": {"boxes_index": [[40, 50, 120, 140]]},
    "res_mtnet_nodule": {"at_lps_mm": "centre", "diameter_mm": 9.0, "reader_rating": 4},
    "chest_ct_multitask": {"markups": "boxes"},
}
"""What is told of the second image in a side file; of the first there is a mask."""


@pytest.fixture(scope="module", name="server", params=one_server_each("app"))
def _server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> Iterator[Server]:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    bundle = write_small_bundle(name, folder / name)
    write_images(name, folder / "studies", data_dir)
    with running_server(folder, bundle, folder / "studies", "mtnet") as server:
        yield server
        if request.session.testsfailed:
            print(server.log.read_text()[-20000:])


def test_every_task_is_a_model_of_one_pass(server: Server, tmp_path: Path) -> None:
    info = server.json("GET", "info/")
    assert list(info["models"]) == [f"{server.name}_{task}" for task in TASKS[server.name]]
    assert list(info["trainers"]) == list(info["scoring"]) == [server.name]
    assert set(info["strategies"]) - {"random", "first"} == STRATEGIES[server.name]
    image, path = next(iter(server.images.items()))
    first = server.infer(f"{server.name}_segmentation", image)
    document = check_answer(first, server.bundle, path, tmp_path)
    assert "network" in first.told["latencies"]
    for task in TASKS[server.name][1:]:
        answer = server.infer(f"{server.name}_{task}", image)
        assert "network" not in answer.told["latencies"], "it ran for the first task alone"
        assert_alike(answer.told["lesions"], document["lesions"])
        if task == "boxes":
            markups = json.loads(answer.content)["markups"]
            assert len(markups) == len(document["lesions"])
            assert answer.told["coordinate_system"] == "LPS"
        elif task == "classification":
            scores = {row["label"]: row["score"] for row in answer.told["prediction"]}
            classes = [p for lesion in document["lesions"] for p in lesion["class_probabilities"].values()]
            told = {one["name"]: one["probability"] for one in document["image_classes"]} or classes[0]
            assert scores == pytest.approx(told, abs=1e-4)
        elif task == "reconstruction":
            (tmp_path / answer.file_name).write_bytes(answer.content)
            redrawn = nibabel.load(tmp_path / answer.file_name)
            assert redrawn.shape == nibabel.load(path).shape and answer.told["reconstruction_error"]


def test_images_are_scored_and_the_highest_comes_first(server: Server) -> None:
    done = server.run(f"scoring/{server.name}")
    assert done["refused"] == 0 and done["scored"] + done["known"] == len(server.images)
    listed = server.json("GET", "datastore/?output=all")["objects"]
    scores = {image: listed[image]["image"]["info"]["mtnet"] for image in server.images}
    for strategy in STRATEGIES[server.name] - {"unlike_labelled"}:
        assert all(score[strategy] >= 0 for score in scores.values())
        chosen = server.json("POST", f"activelearning/{strategy}")
        assert chosen["weight"] == max(score[strategy] for score in scores.values()) and chosen["scored"] == 2


def test_masks_boxes_and_classes_are_learnt_and_answer_next(server: Server, tmp_path: Path) -> None:
    (first, mask_of), (second, other) = server.images.items()
    server.save_label(first, drawn_label(mask_of, tmp_path))
    chosen = server.json("POST", "activelearning/unlike_labelled")
    assert chosen["id"] == second and 0 <= chosen["weight"] <= 2
    side = SIDES[server.name]
    (tmp_path / "side.json").write_text('{"class": "no class"}')
    with pytest.raises(AssertionError, match="422"):
        server.save_label(second, tmp_path / "side.json")
    assert server.json("GET", "info/")["datastore"]["completed"] == 1, "what cannot be learnt is not kept"
    if side is None:
        server.save_label(second, drawn_label(other, tmp_path))
    else:
        if "at_lps_mm" in side:
            read = nibabel.load(other)
            middle = nibabel.affines.apply_affine(read.affine, (np.array(read.shape) - 1) / 2)
            side = {**side, "at_lps_mm": (middle * [-1, -1, 1]).tolist()}
        elif "markups" in side:
            side = {"markups": [{"type": "ROI", "center": [60.0, 60.0, -250.0], "size": [20.0, 20.0, 20.0]}]}
        (tmp_path / "side.json").write_text(json.dumps(side))
        server.save_label(second, tmp_path / "side.json")
    before = server.train()
    assert (server.bundle / "models" / "model.pt").read_bytes() != before
    check_answer(server.infer(f"{server.name}_segmentation", first), server.bundle, mask_of, tmp_path)
    noted = server.json("GET", f"datastore/image/info?image={first}")["mtnet"]
    trained = Predictor.from_bundle(server.bundle, device="cpu").model.weights_sha256
    assert noted["weights"] == trained[:16], "an answer scores its image anew"


def test_an_image_outside_of_the_input_domain_is_refused_with_the_reason(server: Server, tmp_path: Path) -> None:
    if server.name != "chest_ct_multitask":
        pytest.skip("the bundle's domain says nothing of what an image shows")
    noise = np.random.default_rng(0).normal(0, 1, (24, 24, 24)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "noise.nii.gz")
    server.add_image("noise", tmp_path / "noise.nii.gz")
    model = f"{server.name}_segmentation"
    status, reason = server.refusal(model, "noise")
    assert status == 422 and "values_not_hu" in reason
    assert server.run(f"scoring/{server.name}")["refused"] == 1
    assert server.json("POST", "activelearning/uncertainty") == {}, "of the rest nothing can be labelled"
    flagged = server.infer(model, "noise", allow_outside=True).told["report"]
    assert "values_not_hu" in {line["code"] for line in flagged if line["severity"] == "flagged"}
