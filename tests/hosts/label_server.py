"""A real MONAI Label server in its own environment, small bundles, and real images for it."""

from __future__ import annotations

import email
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as PILImage

from mtnet.predictor import Predictor
from mtnet.results import findings_to_dict
from tests.bundles import write_random_bundle

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-label" / "bin" / "python"
WAIT_S = 500

NEEDS_SERVER = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="make label-env makes MONAI Label's environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SMALL = {"batch_size": 2, "workers": 0}
BUNDLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unet_v2_polyp": ({"size": [64, 64]}, {"size": [64, 64], **SMALL}),
    "breast_ultrasound_multitask": ({"size": [64, 64]}, {"size": [64, 64], **SMALL}),
    "yolo_med_polyp": ({"size": 64}, {"size": 64, **SMALL}),
    "res_mtnet_nodule": ({}, SMALL),
    "chest_ct_multitask": (
        {"spacing_mm": [6.0, 6.0, 6.0], "window": [16, 16, 16], "overlap": 0.0},
        {"bags_per_epoch": 1, "patches_per_bag": 2, "patch_size": [16, 16, 16], "workers": 0},
    ),
}
"""Options of ``inference.json`` and ``train.json`` that make a bundle small."""


def one_server_each(app: str) -> list[Any]:
    """Parameters for a fixture of servers: the tests of one bundle keep to one worker, and so to one server."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"label-{app}-{name}")) for name in BUNDLES]


@dataclass(frozen=True)
class Answer:
    """JSON and file of one answer; the file is empty where there is none."""

    told: dict[str, Any]
    content: bytes = b""
    file_name: str = ""


@dataclass(frozen=True)
class Server:
    """A running server, its bundle's copy and its images by id."""

    url: str
    name: str
    bundle: Path
    log: Path
    images: dict[str, Path] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        """Headers and body of what the server says.

        Raises:
            AssertionError: it does not say 200; the message holds what it says.
        """
        status, headers, said = self.said(method, path, body, kind)
        assert status == 200, f"{status}: {said.decode(errors='replace')[:2000]}"
        return headers, said

    def said(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, Any, bytes]:
        """Status, headers and body, whatever the status."""
        request = urllib.request.Request(f"{self.url}/{path}", body or None, {"Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return 200, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, method: str, path: str, **params: Any) -> Any:
        """What the server says, as JSON; ``params`` go as its JSON body."""
        return json.loads(self.ask(method, path, json.dumps(params).encode() if method != "GET" else b"")[1])

    def infer(self, model: str, image: str, **params: Any) -> Answer:
        """One answer."""
        headers, body = self.ask("POST", *_form(model, image, params))
        if not headers["Content-Type"].startswith("multipart/"):
            return Answer(json.loads(body))
        parts = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        by_name = {part.get_param("name", header="Content-Disposition"): part for part in parts.get_payload()}
        told, file = by_name["params"], by_name["image"]
        return Answer(json.loads(told.get_payload(decode=True)), file.get_payload(decode=True), file.get_filename())

    def refusal(self, model: str, image: str, **params: Any) -> tuple[int, str]:
        """Status and detail of an answer that is none."""
        status, _, body = self.said("POST", *_form(model, image, params))
        return status, json.loads(body)["detail"] if body.startswith(b"{") else body.decode()

    def save_label(self, image: str, file: Path, **params: Any) -> Any:
        """Save a label as final, as clients do."""
        return self._put(f"datastore/label?image={image}&tag=final", "label", file, params)

    def add_image(self, image: str, file: Path) -> None:
        """Add an image to the datastore, as clients do."""
        self._put(f"datastore/image?image={image}", "file", file, {})

    def _put(self, path: str, field_name: str, file: Path, params: Mapping[str, Any]) -> Any:
        told = json.dumps(params)
        head = f'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{told}\r\n'
        head += f'--x\r\nContent-Disposition: form-data; name="{field_name}"; filename="{file.name}"\r\n\r\n'
        body = head.encode() + file.read_bytes() + b"\r\n--x--\r\n"
        return json.loads(self.ask("PUT", path, body, "multipart/form-data; boundary=x")[1])

    def run(self, path: str, **params: Any) -> Any:
        """Train or score, and wait for it."""
        return self.json("POST", f"{path}?run_sync=true", device="cpu", **params)

    def train(self) -> bytes:
        """Train one epoch on what is labelled, and return the weights from before."""
        weights = self.bundle / "models" / "model.pt"
        before = weights.read_bytes()
        self.run(f"train/{self.name}", max_epochs=1, val_split=0, multi_gpu=False, tracking="None")
        return before


def _form(model: str, image: str, params: Mapping[str, Any]) -> tuple[str, bytes, str]:
    form = urllib.parse.urlencode({"params": json.dumps({"device": "cpu", **params})}).encode()
    return f"infer/{model}?image={image}", form, "application/x-www-form-urlencoded"


def write_small_bundle(name: str, folder: Path, **options: Any) -> Path:
    """One of the bundles with random weights, made small for inference and training."""
    inference, train = BUNDLES[name]
    bundle = write_random_bundle(name, folder, **inference, **options)
    config = bundle / "configs" / "train.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **train}))
    return bundle


@contextmanager
def running_server(
    folder: Path, bundle: Path, studies: Path | str, app: str, conf: Sequence[str] = (), **environment: str
) -> Iterator[Server]:
    """Start a server by the command that people use, wait until it answers, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "mtnet.hosts.label.start", "--app", app, "--bundle", bundle, "--studies", studies]
    command += ["--workspace", folder / "app", "--port", port, *conf]
    log = folder / "server.log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
    images = {path.name.split(".")[0]: path for path in sorted(studies.iterdir())} if isinstance(studies, Path) else {}
    server = Server(f"http://127.0.0.1:{port}", bundle.name, folder / "app" / "model" / bundle.name, log, images)
    try:
        limit = time.monotonic() + WAIT_S
        while True:
            try:
                server.ask("GET", "info/")
                break
            except (urllib.error.URLError, ConnectionError):
                assert running.poll() is None and time.monotonic() < limit, log.read_text()[-3000:]
                time.sleep(1)
        yield server
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def write_images(name: str, folder: Path, data_dir: Path) -> dict[str, Path]:
    """Two real images for a bundle, by their ids."""
    folder.mkdir()
    if name == "chest_ct_multitask":
        from mtnet.io.nifti_out import write_nifti
        from mtnet.io.read import read_volume

        series = sorted((data_dir / "chest_ct_study").glob("*/*/*"))
        for number, path in enumerate(s for s in series if s.is_dir()):
            write_nifti(read_volume(path).volume, folder / f"chest{number}.nii.gz")
    elif name == "res_mtnet_nodule":
        for number, path in enumerate(sorted((data_dir / "lidc_voi" / "nodules").glob("*.npz"))[:2]):
            crop = np.load(path)
            nibabel.save(nibabel.Nifti1Image(crop["image"], crop["affine"]), folder / f"nodule{number}.nii.gz")
    else:
        place = "BUSI/benign/*).png" if name.startswith("breast") else "CVC-ClinicDB/images/*.jpg"
        for number, path in enumerate(sorted(data_dir.glob(place))[:2]):
            shutil.copy(path, folder / f"picture{number}{path.suffix}")
    return {path.name.split(".")[0]: path for path in sorted(folder.iterdir())}


def label_of(answer: Answer, folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Values ``(i, j[, k])`` of an answer's label map, and its affine where the file has one."""
    suffix = "." + answer.file_name.split(".", 1)[1]
    path = folder / f"label{suffix}"
    path.write_bytes(answer.content)
    if suffix == ".nii.gz":
        label = nibabel.load(path)
        return np.asarray(label.dataobj), label.affine
    with PILImage.open(path) as picture:
        return np.asarray(picture).T, None


def assert_alike(told: Any, expected: Any, where: str = "answer") -> None:
    """Two JSON values are equal, but for what names lesions by source and model and for the last digits of a number, in
    which two processes have been seen to differ."""
    if isinstance(expected, Mapping):
        assert told.keys() == expected.keys(), where
        for name in expected.keys() - {"tracking_uid"}:
            assert_alike(told[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(told) == len(expected), where
        for number, (one, other) in enumerate(zip(told, expected, strict=True)):
            assert_alike(one, other, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert told == pytest.approx(expected, rel=1e-5, abs=2e-6), where
    else:
        assert told == expected, where


def check_answer(answer: Answer, bundle: Path, path: Path, folder: Path) -> dict[str, Any]:
    """Label map, geometry and JSON of an answer are those of ``mtnet infer`` with the same weights, whose document is
    returned."""
    findings = Predictor.from_bundle(bundle, device="cpu").run(path)
    assert findings.label_map is not None
    expected = findings.label_map.array[0]
    got, affine = label_of(answer, folder)
    np.testing.assert_array_equal(got, expected if affine is not None else expected[..., 0])
    if affine is not None:
        np.testing.assert_allclose(affine, nibabel.load(path).affine, atol=1e-4)
    document = findings_to_dict(findings)
    told = answer.told
    assert_alike(told["lesions"], document["lesions"])
    assert_alike(told["image_classes"], document["image_classes"])
    assert told["label_names"] and "latencies" in told
    checked = {"input_checked", "lungs_found", "body_part_judged", "modality_judged", "lungs_cut_off", "one_lung"}
    codes = [{line["code"] for line in report} & checked for report in (told["report"], document["report"])]
    assert codes[0] == codes[1] and "input_checked" in codes[0]
    return document


def drawn_label(image: Path, folder: Path, value: int = 1) -> Path:
    """A label map for an image: a block of a value in its middle."""
    if image.name.endswith(".nii.gz"):
        read = nibabel.load(image)
        label, file = np.zeros(read.shape, np.uint8), folder / f"label-{image.name}"
        label[tuple(slice(n // 2 - max(n // 16, 1), n // 2 + max(n // 16, 1)) for n in read.shape)] = value
        nibabel.save(nibabel.Nifti1Image(label, read.affine), file)
        return file
    with PILImage.open(image) as picture:
        columns, rows = picture.size
    label, file = np.zeros((rows, columns), np.uint8), folder / f"label-{image.stem}.png"
    label[rows // 3 : rows // 2, columns // 3 : columns // 2] = value
    PILImage.fromarray(label).save(file)
    return file
