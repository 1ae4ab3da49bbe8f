"""The nodule bundle under MONAI's own commands: what it says of itself, and the same answers as ``mtnet infer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from mtnet.bundle import PARTS, Bundle
from mtnet.cli import main
from mtnet.structures import RefusedError
from tests.bundles import SHIPPED, write_random_bundle
from tests.test_study_folder import check_complete

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAME = "res_mtnet_nodule"
NODULES = SHIPPED.parent / NAME
PLACES = [[15.0, 16.0, 7.0], [-9.0, 10.0, 11.0]]


@pytest.fixture(scope="module", name="volume")
def _volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hu = np.random.default_rng(0).integers(-1000, 200, (90, 60, 12)).astype(np.int16)
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    affine[0, 3] = 24
    file = tmp_path_factory.mktemp("volume") / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, affine), file)
    return file


def workflow(bundle: Path, **override: Any) -> ConfigWorkflow:
    files = {key: str(bundle / "configs" / f"{name}.json") for key, name in FILES.items()}
    made = ConfigWorkflow(
        **files, workflow_type="infer", logging_file=False, bundle_root=str(bundle), device="cpu", **override
    )
    made.initialize()
    return made


FILES = {"config_file": "inference", "meta_file": "metadata"}


def test_it_is_complete_read_as_data_and_asks_for_a_volume() -> None:
    bundle = Bundle.read(NODULES)
    for part in PARTS:
        assert bundle.build(part) is not None
    domain = bundle.input_domain()
    assert domain is not None and domain.spatial_dims == 3
    for file in ("LICENSE", "WEIGHTS_LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (NODULES / file).read_text(encoding="utf-8")
    card = (NODULES / "docs" / "README.md").read_text(encoding="utf-8")
    assert "Not for" in card and "Reader suspicion is no pathology" in card


def test_the_metadata_describe_every_output_of_the_network() -> None:
    bundle = Bundle.read(NODULES)
    told = bundle.metadata["network_data_format"]["outputs"]
    with torch.no_grad():
        made = bundle.build("network_def").eval()(torch.zeros(1, 3, 64, 64))
    assert list(told) == list(made)
    for key, tensor in made.items():
        assert told[key]["num_channels"] == tensor.shape[1] == len(told[key]["channel_def"])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_monai_gives_the_answers_of_mtnet_infer(spatial_dims: int, volume: Path, tmp_path: Path) -> None:
    bundle = write_random_bundle(NAME, tmp_path / "bundle", spatial_dims=spatial_dims)
    # One override makes planes of a cube and back.
    shipped = NODULES / "configs" / "inference.json"
    (bundle / "configs" / "inference.json").write_bytes(shipped.read_bytes())
    run = workflow(
        bundle, spatial_dims=spatial_dims, at=PLACES, dataset_dir=str(volume), output_dir=str(tmp_path / "monai")
    )
    run.run()
    overridden = write_random_bundle(NAME, tmp_path / "same", spatial_dims=spatial_dims)
    at = [f"--at={','.join(map(str, place))}" for place in PLACES]
    assert main.main(["infer", str(volume), str(tmp_path / "own"), "--bundle", str(overridden), *at]) == 0
    ours, monais = check_complete(tmp_path / "own"), check_complete(tmp_path / "monai")
    assert ours["lesions"] == monais["lesions"] and len(ours["lesions"]) == 2
    for name in ("segmentation.nii.gz", "lesions.nii.gz"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "monai" / name).read_bytes()


def test_monai_measures_the_lesions_of_an_earlier_run_and_refuses_a_place_outside(volume: Path, tmp_path: Path) -> None:
    bundle = write_random_bundle(NAME, tmp_path / "bundle")
    common = {"dataset_dir": str(volume), "output_dir": str(tmp_path / "first")}
    workflow(bundle, at=PLACES[:1], **common).run()
    first = tmp_path / "first" / "findings.json"
    workflow(bundle, lesions=str(first), dataset_dir=str(volume), output_dir=str(tmp_path / "second")).run()
    uids = [
        [lesion["tracking_uid"] for lesion in check_complete(tmp_path / run)["lesions"]] for run in ("first", "second")
    ]
    assert uids[0] == uids[1]
    with pytest.raises(RuntimeError) as failed:
        workflow(bundle, at=[[500, 0, 0]], dataset_dir=str(volume), output_dir=str(tmp_path / "third")).run()
    assert isinstance(failed.value.__cause__, RefusedError) and "place_outside" in str(failed.value.__cause__)


def test_monais_evaluator_takes_each_place_as_an_item(volume: Path, tmp_path: Path) -> None:
    bundle = write_random_bundle(NAME, tmp_path / "bundle")
    made = workflow(bundle, at=PLACES, dataset_dir=str(volume), output_dir=str(tmp_path / "out"))
    evaluator = made.parser.get_parsed_content("evaluator")
    seen = []
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.extend(engine.state.output))
    evaluator.run()
    assert len(seen) == 2
    for item, place in zip(seen, PLACES, strict=True):
        (lesion,) = item["result"]["lesions"]
        assert lesion["centre_lps_mm"] == pytest.approx(place) and "diameter_mm" in lesion["measured"]
        assert item["pred"].shape[1:] == nibabel.load(volume).shape and item["pred"].max() in (1, 2)
    assert not torch.equal(seen[0]["image"], seen[1]["image"])
