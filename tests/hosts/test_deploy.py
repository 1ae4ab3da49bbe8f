"""MONAI Deploy: exported bundles under the steps of the SDK's operator, and our own application's operators."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export
from monai.data import MetaTensor
from PIL import Image as PILImage

from mtnet.bundle import Bundle
from mtnet.cli import main
from mtnet.hosts.deploy.answer_study import AnswerStudy
from mtnet.hosts.deploy.app import application, bundle_in
from mtnet.hosts.deploy.read_study import ReadStudy
from mtnet.hosts.deploy.stock import ScriptedInferer, SdkImaged, StockAnswersd
from mtnet.hosts.deploy.write_report import WriteReport
from mtnet.hosts.deploy.write_segmentation import WriteSegmentation
from mtnet.io.loader import StudyReader
from mtnet.predictor import Predictor, ReadOptions
from mtnet.results import findings_to_dict
from mtnet.structures import Findings, RefusedError
from tests.builders import write_ct_series
from tests.bundles import write_random_bundle, write_tiny_bundle
from tests.hosts.stock_operator import SdkImage, StockOperator, series_to_volume
from tests.results.judges import errors_of

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = sorted(folder.name for folder in BUNDLES.iterdir())
IDS = {"preproc": "deploy_preprocessing", "inferer": "deploy_inferer", "postproc": "deploy_postprocessing"}
CONFIGS = ("inference", "inference_deploy")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
    # MONAI's and ignite's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


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


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module", name="model")
def _model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(bundle, tmp_path_factory.mktemp("model"))


def exported(bundle: Path, folder: Path) -> Path:
    """``model.ts`` as ``docs/monai_deploy.md`` says."""
    ckpt_export(
        "network_def",
        filepath=str(folder / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=[str(bundle / "configs" / f"{name}.json") for name in CONFIGS],
    )
    return folder / "model.ts"


def check_same(sent: dict[str, Any], findings: Findings) -> None:
    """Labels exactly; scores, places and measures to 1e-4."""
    assert findings.label_map is not None
    drawn = np.swapaxes(sent["pred"].array, 0, 2)
    np.testing.assert_array_equal(drawn, findings.label_map.array[0])
    told, wanted = json.loads(str(sent["result"])), findings_to_dict(findings)
    for part in ("lesions", "image_classes", "measured"):
        check_alike(told.get(part), wanted.get(part))


def check_alike(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"tracking_uid"}:
            check_alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            check_alike(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    else:
        assert one == other


@pytest.mark.slow
def test_the_sdk_s_operator_gets_the_answers_of_mtnet_infer_out_of_the_exported_model(
    bundle: Path, model: Path, study: Path
) -> None:
    sent = StockOperator(model, **IDS, configs=CONFIGS)(series_to_volume(study))
    assert set(sent) == {"pred", "result"} and sent["pred"].array.dtype == np.uint8
    findings = Predictor.from_bundle(bundle, device="cpu").run(study)
    assert findings.lesions and findings.image_classes, "random weights must find something, or nothing is compared"
    check_same(sent, findings)


@pytest.mark.slow
def test_an_exported_model_that_is_renamed_has_lost_its_configs_and_one_without_the_config_is_refused(
    bundle: Path, model: Path, study: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "chest.ts"
    shutil.copy(model, renamed)
    lost = StockOperator(renamed, **IDS, configs=CONFIGS)
    assert lost.parser.get("deploy_inferer") is None and not lost.preprocessing.transforms
    with pytest.raises(Exception, match=r"multiple|size"):
        lost(series_to_volume(study))
    with pytest.raises(OSError, match="nothing_of_the_kind"):
        StockOperator(model, **IDS, configs=("inference", "nothing_of_the_kind"))


@pytest.mark.slow
def test_a_nodule_s_crop_is_measured_by_the_sdk_s_operator_as_by_mtnet_infer(study: Path, tmp_path: Path) -> None:
    nodules = write_random_bundle("res_mtnet_nodule", tmp_path / "bundle")
    sent = StockOperator(exported(nodules, tmp_path), **IDS, configs=CONFIGS)(series_to_volume(study))
    findings = Predictor.from_bundle(nodules, device="cpu").run(study, ReadOptions(allow_outside=True))
    check_same(sent, findings)
    (lesion,) = json.loads(str(sent["result"]))["lesions"]
    assert lesion["measured"]["diameter_mm"]["value"] == pytest.approx(
        findings.lesions[0].measured["diameter_mm"].value, rel=1e-4
    )


@pytest.mark.slow
def test_a_picture_that_an_operator_loaded_is_answered_as_by_mtnet_infer(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(tmp_path / "picture.png")
    polyps = write_random_bundle("yolo_med_polyp", tmp_path / "bundle", size=64)
    reader = StudyReader()
    image = SdkImage(*reader.get_data(reader.read(tmp_path / "picture.png")))
    sent = StockOperator(exported(polyps, tmp_path), **IDS, configs=CONFIGS)(image)
    check_same(sent, Predictor.from_bundle(polyps, device="cpu").run(tmp_path / "picture.png"))


@pytest.mark.parametrize("name", NAMES)
def test_the_config_for_the_sdk_has_what_its_operator_asks_for(name: str) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_meta(str(BUNDLES / name / "configs" / "metadata.json"))
    parser.read_config([str(BUNDLES / name / "configs" / f"{config}.json") for config in CONFIGS])
    parser.parse()
    formats = parser["_meta_"]["network_data_format"]
    assert list(formats["inputs"]) == ["image"] and list(formats["outputs"]) == ["pred", "result"]
    preprocessing, inferer, postprocessing = (parser.get_parsed_content(name) for name in IDS.values())
    assert isinstance(preprocessing.transforms[0], SdkImaged), "the first step decides whether a chain sees dicts"
    assert not any("LoadImage" in type(step).__name__ for step in preprocessing.transforms)
    assert isinstance(inferer, ScriptedInferer) and inferer.inferer.layout == "list"
    assert inferer.inferer.dense == "source" and isinstance(postprocessing.transforms[0], StockAnswersd)
    assert parser.get_parsed_content("inferer").layout == "batch", "what other hosts are given stays as it is"


def test_an_image_of_the_sdk_is_called_what_its_affine_says_and_another_is_left_alone() -> None:
    affine = torch.diag(torch.tensor([-1.0, -1.0, 2.0, 1.0]))
    meta = {"space": "LPS", "nifti_affine_transform": affine.numpy()}
    of_sdk, other = (MetaTensor(torch.zeros(2, 2, 2), affine=affine, meta=m) for m in (meta, {"space": "LPS"}))
    assert SdkImaged("image")({"image": of_sdk})["image"].meta["space"] == "RAS"
    assert of_sdk.meta["space"] == "LPS", "the given image is not changed"
    assert SdkImaged("image")({"image": other})["image"].meta["space"] == "LPS"


class Passed:
    """The contexts that the SDK gives an operator: what is emitted is there to be received."""

    def __init__(self, given: dict[str, Any] | None = None) -> None:
        self.held = dict(given or {})

    def receive(self, name: str) -> Any:
        return self.held[name]

    def emit(self, value: Any, name: str) -> None:
        self.held[name] = value


def infer(study: Path, out: Path, bundle: Path) -> Path:
    assert main.main(["infer", str(study), str(out), "--bundle", str(bundle), "--device", "cpu", "--no-capture"]) == 0
    return out


def test_the_operators_write_the_seg_and_the_report_that_mtnet_infer_writes(
    bundle: Path, study: Path, tmp_path: Path
) -> None:
    wanted = infer(study, tmp_path / "infer", bundle)
    predictor = Predictor.from_bundle(bundle, device="cpu")
    out = tmp_path / "made" / "out"
    passed = Passed()
    for step in (ReadStudy(predictor, study), AnswerStudy(predictor), WriteSegmentation(out), WriteReport(out)):
        step.compute(passed, passed, None)
    assert {path.name for path in out.iterdir()} == {"segmentation.dcm", "report.dcm"}
    for path in out.iterdir():
        assert path.read_bytes() == (wanted / path.name).read_bytes()
    assert errors_of(out / "segmentation.dcm") == []
    assert errors_of(out / "report.dcm", "Comprehensive3DSR") == []


def test_a_later_study_without_a_mask_leaves_no_seg_of_an_earlier_one(study: Path, tmp_path: Path) -> None:
    nothing = write_tiny_bundle(tmp_path / "nothing", score_bias=-30.0)
    predictor = Predictor.from_bundle(nothing, device="cpu", tasks=["detection"])
    (tmp_path / "segmentation.dcm").write_bytes(b"old")
    passed = Passed()
    for step in (ReadStudy(predictor, study), AnswerStudy(predictor)):
        step.compute(passed, passed, None)
    for step in (WriteSegmentation(tmp_path), WriteReport(tmp_path)):
        step.compute(passed, passed, None)
    assert not (tmp_path / "segmentation.dcm").exists() and (tmp_path / "report.dcm").is_file()


def test_a_study_that_cannot_be_read_right_ends_the_application_with_the_reason(bundle: Path, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "in", rescale=None)
    passed = Passed()
    with pytest.raises(RefusedError, match="rescale"):
        ReadStudy(Predictor.from_bundle(bundle, device="cpu"), tmp_path / "in").compute(passed, passed, None)


def test_the_report_of_an_image_file_is_refused_by_name(bundle: Path, study: Path, tmp_path: Path) -> None:
    out = infer(study, tmp_path / "infer", bundle)
    predictor = Predictor.from_bundle(bundle, device="cpu")
    passed = Passed()
    for step in (ReadStudy(predictor, out / "reconstruction.nii.gz"), AnswerStudy(predictor)):
        step.compute(passed, passed, None)
    WriteSegmentation(tmp_path / "out").compute(passed, passed, None)
    with pytest.raises(RuntimeError, match="no DICOM series"):
        WriteReport(tmp_path / "out").compute(passed, passed, None)


class FakeFragment:
    """An application of the SDK, which runs its operators in the order of its flows."""

    def __init__(self) -> None:
        self.argv = sys.argv
        self.flows: list[tuple[Any, Any, set[tuple[str, str]]]] = []

    @staticmethod
    def init_app_context(argv: list[str]) -> types.SimpleNamespace:
        told = dict(zip(argv[1::2], argv[2::2], strict=True))
        return types.SimpleNamespace(input_path=told["-i"], output_path=told["-o"], model_path=told["-m"])

    def add_flow(self, upstream: Any, downstream: Any, ports: set[tuple[str, str]]) -> None:
        for given, taken in ports:
            assert given in upstream.spec.outputs and taken in downstream.spec.inputs
        self.flows.append((upstream, downstream, ports))

    def run(self) -> None:
        self.compose()  # type: ignore[attr-defined]  # what the application brings
        assert self.flows[0][0].conditions == [("count", 1)]
        given = Passed()
        self.flows[0][0].compute(Passed(), given, None)
        for _, downstream, ports in self.flows:
            taken = Passed({name: given.held[port] for port, name in ports})
            given = Passed()
            downstream.compute(taken, given, None)


class FakeOperator:
    def __init__(self, fragment: Any, *conditions: Any, name: str) -> None:
        self.conditions, self.name = list(conditions), name
        self.spec = FakeSpec()
        self.setup(self.spec)  # type: ignore[attr-defined]  # what the operator brings


class FakeSpec:
    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.input, self.output = self.inputs.append, self.outputs.append


def test_the_application_takes_a_folder_and_gives_what_mtnet_infer_gives(
    bundle: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a stand-in of the SDK, which passes on what operators emit as the SDK's documentation says."""
    wanted = infer(study, tmp_path / "infer", bundle)
    deploy = types.ModuleType("monai.deploy")
    deploy.core = types.SimpleNamespace(Application=FakeFragment, Operator=FakeOperator)  # type: ignore[attr-defined]
    deploy.conditions = types.SimpleNamespace(  # type: ignore[attr-defined]
        CountCondition=lambda fragment, count: ("count", count)
    )
    monkeypatch.setitem(sys.modules, "monai.deploy", deploy)
    (tmp_path / "models").mkdir()
    shutil.copytree(bundle, tmp_path / "models" / "chest")
    arguments = ["app", "-i", str(study), "-o", str(tmp_path / "out"), "-m", str(tmp_path / "models")]
    monkeypatch.setattr(sys, "argv", arguments)
    application()().run()
    for name in ("segmentation.dcm", "report.dcm"):
        assert (tmp_path / "out" / name).read_bytes() == (wanted / name).read_bytes()


def test_the_model_folder_is_the_bundle_or_holds_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no bundles"):
        bundle_in(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / "metadata.json").write_text("{}", encoding="ascii")
        if name == "one":
            assert bundle_in(tmp_path) == tmp_path / "one" == bundle_in(tmp_path / "one")
    with pytest.raises(FileNotFoundError, match="2 bundles"):
        bundle_in(tmp_path)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ModuleNotFoundError("No module named 'monai.deploy'", name="monai.deploy"),
            "pip install monai-deploy-app-sdk",
        ),
        (ModuleNotFoundError("No module named 'holoscan'", name="holoscan"), "pip install holoscan-cu13"),
        (ImportError("libcudart.so.13: cannot open shared object file"), "libcudart.so.13.*CUDA 13"),
    ],
)
def test_what_the_sdk_lacks_is_named(error: ImportError, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "monai.deploy":
                raise error

    for name in [name for name in sys.modules if name.startswith("monai.deploy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ImportError, match=told):
        application()


def test_started_without_the_sdk_it_says_what_to_do_and_shows_no_traceback() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "mtnet.hosts.deploy", "-i", "in", "-o", "out", "-m", "bundle"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "MONAI Deploy App SDK is not installed" in ran.stderr and "mtnet infer" in ran.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_card_names_the_config(name: str) -> None:
    assert "inference_deploy.json" in (BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8")
    assert Bundle.read(BUNDLES / name).metadata["name"] == name
