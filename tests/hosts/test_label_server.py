"""MONAI Label's own app, from a real server process in its own environment, on every bundle and real images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.hosts.label_server import (
    NEEDS_SERVER,
    Server,
    check_answer,
    drawn_label,
    one_server_each,
    running_server,
    write_images,
    write_small_bundle,
)

pytestmark = [*NEEDS_SERVER, pytest.mark.study]


@pytest.fixture(scope="module", name="server", params=one_server_each("stock"))
def _server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> Iterator[Server]:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    bundle = write_small_bundle(name, folder / name)
    write_images(name, folder / "studies", data_dir)
    if name == "chest_ct_multitask":
        noise = np.random.default_rng(0).normal(0, 1, (24, 24, 24)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(noise, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "noise.nii.gz")
    with running_server(folder, bundle, folder / "studies", "stock") as server:
        yield server
        if request.session.testsfailed:
            print(server.log.read_text()[-20000:])


def test_the_stock_app_answers_scores_and_trains(server: Server, tmp_path: Path) -> None:
    info = server.json("GET", "info/")
    assert list(info["models"]) == list(info["trainers"]) == list(info["scoring"]) == [server.name]
    image, path = next(iter(server.images.items()))
    check_answer(server.infer(server.name, image), server.bundle, path, tmp_path)

    server.run(f"scoring/{server.name}", simulation_size=2, max_workers=1)
    listed = server.json("GET", "datastore/?output=all")["objects"]
    scores = [listed[image]["image"]["info"]["epistemic_entropy"] for image in server.images]
    assert all(0 < score <= math.log(3) for score in scores), "an entropy of probabilities, not of labels"
    assert len(set(scores)) == len(scores)

    for labelled, file in server.images.items():
        server.save_label(labelled, drawn_label(file, tmp_path))
    before = server.train()
    assert (server.bundle / "models" / "model.pt").read_bytes() != before, "an epoch changes the weights"
    check_answer(server.infer(server.name, image), server.bundle, path, tmp_path)

    if server.name == "chest_ct_multitask":
        noise = str(server.log.parent / "noise.nii.gz")
        status, reason = server.refusal(server.name, noise)
        assert status == 422 and "values_not_hu" in reason, "an image outside of the input domain is refused"
        flagged = server.infer(server.name, noise, allow_outside=True).told["report"]
        assert {"values_not_hu"} <= {line["code"] for line in flagged if line["severity"] == "flagged"}
