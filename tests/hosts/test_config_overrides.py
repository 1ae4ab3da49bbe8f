"""The configs of all bundles: short, and every part of them changed by one override."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from mtnet.nets import load_state, read_state, save_state
from tests.training.made import write_pictures

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = sorted(folder.name for folder in BUNDLES.iterdir())
FILES = ("train", "evaluate", "inference", "multi_gpu_train")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def config(name: str, file: str, changes: dict[str, Any]) -> ConfigParser:
    """A config with ids overridden, as the command line does it; on the CPU."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / f"{file}.json"))
    for key, value in {"device": "$torch.device('cpu')", **changes}.items():
        parser[key] = value
    return parser


def lines(name: str, file: str) -> int:
    text = (BUNDLES / name / "configs" / f"{file}.json").read_text(encoding="utf-8")
    return len(json.dumps(json.loads(text), indent=2).splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_the_four_configs_of_a_bundle_stay_under_350_lines_together(name):
    assert sum(lines(name, file) for file in FILES) < 350


@pytest.mark.parametrize("name", NAMES)
def test_no_config_but_the_system_s_function_says_how_an_image_is_preprocessed(name):
    system = json.loads((BUNDLES / name / "configs" / "inference.json").read_text())["preprocessing"]["_target_"]
    room, function = system.rsplit(".", 1)
    for file in ("train", "evaluate"):
        text = (BUNDLES / name / "configs" / f"{file}.json").read_text(encoding="utf-8")
        assert system in text or f"{room.rsplit('.', 1)[1]}.{function}(" in text
        for step in ("Spacingd", "Orientationd", "Resized", "NormalizeIntensityd", "ScaleIntensityRanged", "LoadImage"):
            assert step not in text


Check = Callable[[ConfigParser], Any]


def of(*path: str) -> Check:
    """The attribute path of an id, such as ``("optimizer", "param_groups")``."""

    def read(parser: ConfigParser) -> Any:
        value = parser.get_parsed_content(path[0])
        for name in path[1:]:
            value = getattr(value, name)
        return value

    return read


def outputs(parser: ConfigParser) -> list[str]:
    return [spec.name for spec in parser.get_parsed_content("network_def").outputs]


def group(key: str) -> Check:
    return lambda parser: parser.get_parsed_content("optimizer").param_groups[0][key]


def kinds(path: str) -> Check:
    return lambda parser: type(parser.get_parsed_content(path)).__name__


def steps(path: str) -> Check:
    return lambda parser: [type(step).__name__ for step in parser.get_parsed_content(path).transforms]


def names(output: str) -> Check:
    """The labels of one output of the network."""
    return lambda parser: [
        label.name
        for spec in parser.get_parsed_content("network_def").outputs
        if spec.name == output
        for label in spec.labels
    ]


NAMED = {"manifest": "some.json", "train#dataset#data": [], "validate#dataset#data": []}
"""A manifest that is not read: hosts give samples of their own, and then no checkpoint is kept."""
COMMON: list[tuple[str, Any, Check, Any]] = [
    ("learning_rate", 0.5, group("lr"), 0.5),
    ("weight_decay", 0.25, group("weight_decay"), 0.25),
    ("optimizer#_target_", "torch.optim.SGD", kinds("optimizer"), "SGD"),
    (
        "lr_scheduler",
        {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "optimizer": "@optimizer", "gamma": 0.5},
        kinds("lr_scheduler"),
        "ExponentialLR",
    ),
    ("max_epochs", 7, of("train#trainer", "state", "max_epochs"), 7),
    ("train#trainer#accumulation_steps", 3, of("train#trainer", "accumulation_steps"), 3),
    ("precision", "bfloat16", of("train#inferer", "dtype"), torch.bfloat16),
    ("seed", 5, of("train#dataset", "seed"), 5),
    ("workers", 0, of("train#dataloader", "num_workers"), 0),
    ("checkpoint", "mine.pt", of("train#handlers"), "mine.pt"),
]
PICTURES: list[tuple[str, Any, Check, Any]] = [
    ("batch_size", 3, of("train#dataloader", "batch_size"), 3),
    ("train#random_transforms#flip", 0, lambda p: "RandFlipd" in steps("train#random_transforms")(p), False),
    (
        "train#random_transforms",
        {"_target_": "Compose", "transforms": []},
        lambda p: len(p.get_parsed_content("train#random_transforms").transforms),
        0,
    ),
]
OWN: dict[str, list[tuple[str, Any, Check, Any]]] = {
    "breast_ultrasound_multitask": [
        *PICTURES,
        ("variant", "published", lambda p: p.get_parsed_content("network_def").encoder.channels[-1], 448),
        ("encoder", "resnet18", lambda p: p.get_parsed_content("network_def").encoder.channels[-1], 512),
        ("decoder", "fpn", lambda p: "FPN" in type(decoder_of(p, "segmentation")).__name__, True),
        ("tasks", ["classification"], outputs, ["classification"]),
        ("labels", ["cyst", "benign"], names("classification"), ["cyst", "benign"]),
        ("lambda_classification", 0.3, lambda p: weights(p)["classification"], 0.3),
        ("loss_form", "convex", lambda p: weights(p)["classification"], pytest.approx(0.3)),
        ("outline_loss", "structure", lambda p: type(term(p, "pred")).__name__, "StructureLoss"),
        ("val_metric", "classification_auroc", of("validate#evaluator", "state", "key_metric_name"), None),
    ],
    "unet_v2_polyp": [
        *PICTURES,
        ("variant", "published", lambda p: p.get_parsed_content("network_def").encoder.channels[0], 64),
        ("variant", "published", lambda p: type(decoder_of(p, "segmentation")).__name__, "UNetV2Decoder"),
        ("encoder", "resnet18", lambda p: p.get_parsed_content("network_def").encoder.channels[-1], 512),
        ("decoder", "unet", lambda p: "UNet" in type(decoder_of(p, "segmentation")).__name__, True),
        ("supervision", [1, 1, 0, 0], lambda p: list(term(p, "pred").weights), [1, 1, 0, 0]),
        ("labels", ["adenoma", "serrated"], names("pred"), ["background", "adenoma", "serrated"]),
        ("labels", ["skin_lesion"], names("pred"), ["skin_lesion"]),
        ("loss_form", "ce_dice", lambda p: type(term(p, "pred").loss).__name__, "CrossEntropyDiceLoss"),
    ],
    "yolo_med_polyp": [
        *PICTURES,
        ("variant", "published", lambda p: p.get_parsed_content("network_def").encoder.channels[-1], 1024),
        ("interaction", "none", lambda p: p.get_parsed_content("network_def").interaction, None),
        ("decoder", "unet", lambda p: type(decoder_of(p, "segmentation")).__name__, "PickLevels"),
        ("tasks", ["detection"], outputs, ["lesions"]),
        ("labels", ["adenoma", "serrated"], names("lesions"), ["adenoma", "serrated"]),
        ("assigner", "atss", lambda p: term(p, "lesions").assigner, "atss"),
        ("box_loss", "giou", lambda p: term(p, "lesions").box, "giou"),
        ("outline_loss", "structure", lambda p: type(term(p, "pred").loss).__name__, "StructureLoss"),
        ("lambda_detection", 0.0, lambda p: weights(p)["lesions"], 0.0),
        ("loss_weighting", "uncertainty", lambda p: len(p.get_parsed_content("optimizer").param_groups), 2),
        ("boxes_from", "boxes", lambda p: p.get_parsed_content("train#trainer").prepare_batch.boxes_from[0], "boxes"),
        ("val_metric", "lesions_ap", of("validate#evaluator", "state", "key_metric_name"), None),
    ],
    "res_mtnet_nodule": [
        *PICTURES,
        ("encoder", "resnet34", lambda p: p.get_parsed_content("network_def").encoder.channels[-1], 256),
        ("interaction", "none", lambda p: p.get_parsed_content("network_def").interaction, None),
        ("tasks", ["regression"], outputs, ["diameter", "reader_rating"]),
        ("labels", ["solid", "part_solid", "ground_glass"], names("pred"), ["solid", "part_solid", "ground_glass"]),
        ("uncertainty", True, lambda p: type(term(p, "diameter")).__name__, "GaussianRegressionLoss"),
        ("lambda_regression", 0.1, lambda p: weights(p)["diameter"], 0.1),
        ("val_metric", "diameter_mae", of("validate#evaluator", "state", "key_metric_name"), None),
    ],
    "chest_ct_multitask": [
        ("encoder", "resnet18", lambda p: p.get_parsed_content("network_def").encoder.channels[-1], 128),
        ("tasks", ["segmentation"], outputs, ["pred"]),
        ("outputs", ["lesions"], outputs, ["lesions"]),
        ("lambda_reconstruction", 0.0, lambda p: weights(p)["reconstruction"], 0.0),
        ("patch_size", [32, 32, 32], of("train#dataset", "patch_size"), [32, 32, 32]),
        ("patches_per_bag", 2, of("train#dataset", "patches"), 2),
        ("chests", 3, of("train#dataset", "chests"), 3),
        ("val_metric", "lesions_ap", of("validate#evaluator", "state", "key_metric_name"), None),
    ],
}


def decoder_of(parser: ConfigParser, task: str) -> Any:
    return parser.get_parsed_content("network_def").branches[task].decoder


def term(parser: ConfigParser, name: str) -> Any:
    return parser.get_parsed_content("loss").loss.terms[name]


def weights(parser: ConfigParser) -> dict[str, float]:
    return parser.get_parsed_content("loss").loss.weights


@pytest.mark.parametrize("name", NAMES)
def test_a_dozen_parts_and_options_are_changed_by_one_override_each(name):
    cases = [*COMMON, *OWN[name]]
    assert len(cases) >= 12
    for key, value, read, wanted in cases:
        parser = config(name, "train", {**(NAMED if key == "checkpoint" else {}), key: value})
        found = read(parser)
        if key == "checkpoint":
            assert str(next(h.path for h in found if type(h).__name__ == "TrainingState")) == wanted
        else:
            assert found == (value if wanted is None and key == "val_metric" else wanted), key


@pytest.mark.parametrize("name", NAMES)
def test_the_several_processes_config_names_only_ids_that_training_has(name):
    changed = json.loads((BUNDLES / name / "configs" / "multi_gpu_train.json").read_text(encoding="utf-8"))
    parser = config(name, "train", {})
    for key in changed:
        if key not in ("+imports", "initialize", "finalize"):
            parent = key.rsplit("#", 1)[0]
            assert key in parser or (parent in parser and key == "loss#distributed"), key


def test_a_single_override_of_the_encoder_and_decoder_gives_the_published_best_cell_of_the_grid():
    parser = config(
        "breast_ultrasound_multitask", "inference", {"encoder": "efficientnet_b4", "decoder": "deeplabv3plus"}
    )
    network = parser.get_parsed_content("network_def")
    view = parser.get_parsed_content("pred_view").eval()
    assert network.encoder.channels[-1] == 448 and view.encoder is network.encoder
    with torch.no_grad():
        assert view(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("breast_ultrasound_multitask", {"tasks": ["classification"], "size": [64, 64]}),
        ("yolo_med_polyp", {"tasks": ["segmentation"], "size": 64}),
        ("yolo_med_polyp", {"tasks": ["detection"], "size": 64}),
        ("unet_v2_polyp", {"decoder": "unetplusplus", "encoder": "resnet18", "size": [64, 64]}),
    ],
)
def test_one_task_or_another_decoder_trains_validates_and_goes_on_from_its_weights(
    name, changes, tmp_path, monkeypatch
):
    """Also: weights of a file start a training, and the loss of a task that is not built is not asked for."""
    monkeypatch.chdir(tmp_path)
    manifest = write_pictures(tmp_path / "data")
    changes = {
        **changes,
        "manifest": str(manifest),
        "bundle_root": str(tmp_path),
        "workers": 0,
        "batch_size": 3,
        "max_epochs": 1,
    }
    torch.manual_seed(3)
    save_state(config(name, "train", changes).get_parsed_content("network_def"), tmp_path / "first.pt")
    parser = config(name, "train", {**changes, "initial_weights": str(tmp_path / "first.pt")})
    trainer = parser.get_parsed_content("train#trainer")
    trainer.run()
    evaluator = parser.get_parsed_content("validate#evaluator")
    assert evaluator.state.best_metric_epoch == 1 and (tmp_path / "models" / "model.pt").is_file()
    assert torch.isfinite(torch.tensor(trainer.state.output["loss"].item()))


@pytest.mark.slow
def test_fine_tuning_on_one_s_own_labels_is_one_command_and_the_bundle_answers_in_them(tmp_path, monkeypatch, caplog):
    """A third class is new, the classifier begins anew, the rest of the weights is kept, and evaluation knows them."""
    monkeypatch.chdir(tmp_path)
    name, own = "breast_ultrasound_multitask", ["benign", "malignant", "normal", "cyst"]
    changes = {"size": [32, 32], "bundle_root": str(tmp_path), "workers": 0, "batch_size": 3, "max_epochs": 1}
    first = config(name, "train", changes).get_parsed_content("network_def")
    save_state(first, tmp_path / "first.pt")
    changes |= {"manifest": str(write_pictures(tmp_path / "data")), "precision": "float32", "learning_rate": 0.0}
    parser = config(name, "train", {**changes, "labels": own, "initial_weights": str(tmp_path / "first.pt")})
    with caplog.at_level("INFO", logger="mtnet"):
        parser.get_parsed_content("train#trainer").run()
    assert "new, since first.pt has nothing that fits: branches.classification\n" in caplog.text
    published = read_state(tmp_path / "models" / "model.pt")
    parameters = dict(first.named_parameters())
    kept = [key for key, tensor in published.items() if key in parameters and parameters[key].shape == tensor.shape]
    assert len(kept) == len(parameters) - 2
    assert all(torch.allclose(published[key].float(), parameters[key], atol=2e-3) for key in kept)
    network = config(name, "evaluate", {"labels": own}).get_parsed_content("network_def")
    load_state(network, tmp_path / "models" / "model.pt")
    assert names("classification")(config(name, "inference", {"labels": own})) == own
