"""The shipped configs under MONAI's own bundle commands, beside ``mtnet infer``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.data import MetaTensor

from mtnet.bundle import Bundle, BundleError
from mtnet.cli import main
from mtnet.hosts.monai_bundle import bundle_root
from mtnet.predictor import Predictor
from mtnet.results import findings_to_dict
from mtnet.systems.chest_ct import network
from tests.builders import write_ct_series
from tests.bundles import SHIPPED, write_tiny_bundle
from tests.hosts.monai_metadata import METADATA_20240725

pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
    # MONAI's and ignite's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module", name="study")
def _study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "in"
    write_ct_series(
        folder,
        shape=(24, 20, 9),
        spacing_mm=(2.5, 2.5, 6.0),
        values=lambda p: np.sin(p / 9).prod(axis=-1) * 600 - 400,
    )
    return folder


def configs(bundle: Path, name: str) -> dict[str, str]:
    return {"config_file": str(bundle / "configs" / name), "meta_file": str(bundle / "configs" / "metadata.json")}


def workflow(bundle: Path, name: str, kind: str, **override: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(**configs(bundle, name), workflow_type=kind, logging_file=False, **override)
    made.initialize()
    return made


def answers(folder: Path) -> dict[str, Any]:
    """Everything that a run says but what it cost."""
    document: dict[str, Any] = json.loads((folder / "findings.json").read_text())
    del document["costs"]
    return document


@pytest.mark.slow
def test_monai_s_command_gives_what_mtnet_infer_gives_from_any_folder(
    bundle: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--workflow_type", "infer", "--dataset_dir", str(study), "--output_dir", str(tmp_path / "monai")]
    command += ["--device", "cpu"]
    subprocess.run(command, check=True, cwd=tmp_path / "elsewhere", capture_output=True)
    assert main.main(["infer", str(study), str(tmp_path / "mtnet"), "--bundle", str(bundle), "--device", "cpu"]) == 0
    ours = answers(tmp_path / "mtnet")
    assert ours["lesions"], "random weights must find something, or nothing is compared"
    assert answers(tmp_path / "monai") == ours, "files are listed with their hashes, so they are the same too"
    assert {path.name for path in (tmp_path / "monai").iterdir()} == {
        path.name for path in (tmp_path / "mtnet").iterdir()
    }


def test_an_option_of_the_config_is_overridden_and_takes_effect(bundle: Path, study: Path, tmp_path: Path) -> None:
    run = workflow(
        bundle,
        "inference.json",
        "infer",
        dataset_dir=str(study),
        output_dir=str(tmp_path / "out"),
        bundle_root=str(bundle),
        device="cpu",
        overlap=0.5,
    )
    run.run()
    options = answers(tmp_path / "out")["options"]
    assert (options["overlap"], options["window"], options["region"]) == ("0.5", "16x16x16", "whole")


def test_a_refused_study_ends_monai_s_run_with_the_reason(bundle: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in", rescale=None)
    run = workflow(
        bundle,
        "inference.json",
        "infer",
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        bundle_root=str(bundle),
        device="cpu",
    )
    with pytest.raises(RuntimeError) as raised:
        run.run()
    assert "rescale_missing" in f"{raised.value} {raised.value.__cause__}"


@pytest.mark.parametrize(("name", "kind"), [("inference.json", "infer"), ("train.json", "train")])
def test_monai_reads_version_and_channels_of_the_shipped_configs_without_data_or_weights(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = workflow(SHIPPED, name, kind, device="cpu")
    assert made.version == Bundle.read(SHIPPED).metadata["version"]
    assert made.channel_def == {"0": "background", "1": "nodule"}
    assert made.network_def is not None and made.device is not None


def test_monai_s_evaluator_gives_the_labels_and_findings_that_mtnet_infer_gives(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(bundle))  # as MONAI does before it runs a bundle
    affine = np.diag([-4.0, -4.0, 5.0, 1.0])
    values = np.random.default_rng(0).normal(-300, 300, (30, 26, 20)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "image.nii.gz")
    run = workflow(
        bundle,
        "inference.json",
        "infer",
        dataset_dir=str(tmp_path / "image.nii.gz"),
        bundle_root=str(bundle),
        device="cpu",
    )
    evaluator = run.evaluator
    evaluator.run()
    (output,) = evaluator.state.output

    findings = Predictor.from_bundle(bundle, device="cpu").run(tmp_path / "image.nii.gz")
    assert isinstance(output["pred"], MetaTensor) and findings.label_map is not None
    np.testing.assert_array_equal(output["pred"].numpy(), findings.label_map.array)
    assert 0.01 < (output["pred"] > 0).float().mean() < 0.99
    np.testing.assert_allclose(output["pred"].affine, affine)
    told, expected = output["result"], findings_to_dict(findings)
    assert told["image_classes"] == expected["image_classes"] and len(told["image_classes"]) == 2
    assert [{**lesion, "tracking_uid": ""} for lesion in told["lesions"]] == [
        {**lesion, "tracking_uid": ""} for lesion in expected["lesions"]
    ]
    assert told["lesions"], "random weights must find something, or nothing is compared"


def test_the_evaluator_does_not_run_with_weights_that_nobody_vouches_for(bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other")
    (other / "models" / "model.pt").write_bytes((bundle / "models" / "model.pt").read_bytes()[:-1] + b"x")
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 16, 16), np.int16), np.eye(4)), tmp_path / "image.nii.gz")
    run = workflow(
        other,
        "inference.json",
        "infer",
        dataset_dir=str(tmp_path / "image.nii.gz"),
        bundle_root=str(other),
        device="cpu",
    )
    with pytest.raises(BundleError, match="damaged or was"):
        run.evaluator.run()


def test_the_view_with_one_output_passes_monai_s_check_of_shapes(bundle: Path) -> None:
    verify_net_in_out("pred_view", **configs(bundle, "inference.json"), device="cpu")
    with pytest.raises(ValueError, match="channel number"):
        verify_net_in_out(
            "pred_view",
            **configs(bundle, "inference.json"),
            device="cpu",
            **{"_meta_#network_data_format#outputs#pred#num_channels": 3},
        )


def test_the_metadata_describe_every_output_of_the_network() -> None:
    metadata = Bundle.read(SHIPPED).metadata
    told = metadata["network_data_format"]["outputs"]
    with torch.no_grad():
        made: Mapping[str, torch.Tensor] = network().eval()(torch.zeros(1, 1, 32, 32, 32))
    assert list(told) == list(made) and next(iter(told)) == "pred"
    for name, tensor in made.items():
        assert told[name]["num_channels"] == tensor.shape[1] == len(told[name]["channel_def"])
        spatial = [int(text.removesuffix("*n")) * 2 for text in told[name]["spatial_shape"]]
        assert spatial == list(tensor.shape[2:])
    assert next(iter(metadata["network_data_format"]["inputs"])) == "image"
    assert (
        metadata["version"] in metadata["changelog"] and metadata["training_data"] == "drawn data and LIDC-IDRI nodules"
    )
    for key in ("monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright"):
        assert metadata[key], key


def test_the_bundle_is_found_where_monai_runs_it(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", ["", "/no/such/place"])
    assert bundle_root("chest_ct_multitask") == "chest_ct_multitask"
    monkeypatch.setenv("MTNET_BUNDLES", str(SHIPPED.parent))
    assert bundle_root("chest_ct_multitask") == str(SHIPPED)
    monkeypatch.setattr(sys, "path", ["", str(bundle)])
    assert bundle_root("chest_ct_multitask") == str(bundle)
    assert bundle_root("another") == "another"


@pytest.mark.parametrize("lacks", [None, "copyright", "num_channels"])
def test_monais_verify_metadata_takes_the_shipped_metadata_and_refuses_it_when_a_field_is_missing(tmp_path, lacks):
    metadata = json.loads((SHIPPED / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["schema"].endswith("meta_schema_20240725.json")
    if lacks == "copyright":
        del metadata["copyright"]
    elif lacks:
        del metadata["network_data_format"]["outputs"]["pred"][lacks]
    given, schema = tmp_path / "metadata.json", tmp_path / "schema.json"
    given.write_text(json.dumps(metadata), encoding="utf-8")
    schema.write_text(json.dumps(METADATA_20240725), encoding="ascii")
    digest = hashlib.sha256(schema.read_bytes()).hexdigest()
    told = {"filepath": str(schema), "hash_val": digest, "hash_type": "sha256"}
    if lacks is None:
        verify_metadata(str(given), **told)
    else:
        with pytest.raises(ValueError, match=f"{lacks}. is a required"):
            verify_metadata(str(given), **told)
