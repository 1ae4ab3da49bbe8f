import ast
import hashlib
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import pytest

from mtnet.bundle import ALLOWED, PARTS, Bundle, BundleError, find_bundle, list_bundles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def make_bundle(folder: Path, config: dict, **metadata) -> Bundle:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    described = {"name": "tiny", "version": "0.1.0", "training_data": "drawn data", **metadata}
    (folder / "configs" / "metadata.json").write_text(json.dumps(described))
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return Bundle.read(folder)


def public_names(package: str) -> set[str]:
    """Every public callable of a package: of all modules' sources, and of what is loaded (compiled ones too)."""
    root = importlib.import_module(package)
    names = set()
    for module in pkgutil.walk_packages(root.__path__, package + ".", onerror=lambda _: None):
        spec = module.module_finder.find_spec(module.name, None)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        try:
            tree = ast.parse(Path(spec.origin).read_bytes())
        except SyntaxError:  # written for a newer Python: cannot be imported here either
            continue
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                names.add(f"{module.name}.{node.name}")
            if isinstance(node, ast.ImportFrom):
                names.update(f"{module.name}.{a.asname or a.name}" for a in node.names)
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(package + "."):
            names.update(f"{name}.{a}" for a, v in list(vars(module).items()) if not a.startswith("_") and callable(v))
    return names


@pytest.mark.slow
def test_no_public_callable_of_monai_torch_and_mtnet_is_built_unless_it_is_on_the_list(tmp_path):
    names = public_names("monai") | public_names("torch") | public_names("mtnet")
    assert {"monai.utils.run_cmd", "torch.utils.collect_env.run", "torch.load", "torch.compile"} <= names
    assert len(names) > 10_000
    bundle = make_bundle(tmp_path / "b", {})
    for name in sorted(names - ALLOWED):
        bundle.config["preprocessing"] = {"_target_": name}
        with pytest.raises(BundleError, match="not on the list"):
            bundle.build("preprocessing")


@pytest.mark.parametrize(
    "name",
    ["monai.utils.run_cmd", "torch.utils.collect_env.run", "os.system", "builtins.eval", "monai.transforms.Lambdad"],
)
@pytest.mark.parametrize("part", PARTS)
def test_what_runs_commands_is_refused_at_every_depth(tmp_path, part, name):
    bad = {"_target_": name, "command": "true"}
    compose = {"_target_": "monai.transforms.Compose", "transforms": [bad]}
    for number, value in enumerate([bad, compose, {"a": [{"b": bad}]}, "@elsewhere", "@far#0"]):
        bundle = make_bundle(tmp_path / str(number), {part: value, "elsewhere": bad, "far": [bad]})
        with pytest.raises(BundleError, match="not on the list"):
            bundle.build(part)


@pytest.mark.parametrize(
    "value",
    [
        "$__import__('os').system('true')",
        "%other.json#id",
        {"_target_": "monai.transforms.Compose", "_mode_": "callable"},
        {"_target_": "monai.transforms.Compose", "_requires_": ["$1"]},
        {"_target_": "monai.transforms.Compose", "_disabled_": "$True"},
        {"_target_": "monai.transforms.Compose", "transforms": ["$1"]},
        {"_target_": "Compose"},
        {"_target_": ["monai.transforms.Compose"]},
    ],
)
def test_expressions_macros_modes_and_short_names_are_refused(tmp_path, value):
    with pytest.raises(BundleError, match=r"inference\.json"):
        make_bundle(tmp_path / "b", {"preprocessing": value}).build("preprocessing")


def test_ids_that_inference_does_not_need_are_never_evaluated(tmp_path):
    marker = tmp_path / "ran"
    config = {
        "imports": [f"$open({str(marker)!r}, 'w')"],
        "initialize": [f"$open({str(marker)!r}, 'w')"],
        "device": f"$open({str(marker)!r}, 'w')",
        "spacing": [1.5, 1.5, 1.5],
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {"_target_": "monai.transforms.Spacingd", "keys": "image", "pixdim": "@spacing"},
                {"_target_": "monai.transforms.EnsureTyped", "keys": "image", "_disabled_": True},
            ],
        },
    }
    compose = make_bundle(tmp_path / "b", config).build("preprocessing")
    assert [type(t).__name__ for t in compose.transforms] == ["Spacingd"]
    assert not marker.exists()


def test_references_in_a_circle_and_to_nowhere_are_errors_that_name_the_id(tmp_path):
    with pytest.raises(BundleError, match="circle"):
        make_bundle(tmp_path / "a", {"preprocessing": "@x", "x": ["@x"]}).build("preprocessing")
    with pytest.raises(BundleError, match="@nowhere#3"):
        make_bundle(tmp_path / "b", {"preprocessing": "@nowhere#3"}).build("preprocessing")
    with pytest.raises(BundleError, match="missing"):
        make_bundle(tmp_path / "c", {}).build("preprocessing")
    with pytest.raises(BundleError, match="only network_def"):
        make_bundle(tmp_path / "d", {"device": "cpu"}).build("device")


def test_every_listed_name_exists():
    for name in ALLOWED:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name


def test_weights_that_nobody_vouches_for_are_refused(tmp_path):
    published = hashlib.sha256(b"published").hexdigest()
    bundle = make_bundle(tmp_path / "b", {}, weights_sha256=published)
    with pytest.raises(BundleError, match="no weights"):
        bundle.check_weights()
    bundle.weights.write_bytes(b"published")
    assert bundle.model_info().training_data == "drawn data"
    bundle.weights.write_bytes(b"retrained")
    with pytest.raises(BundleError, match="damaged or was"):
        bundle.check_weights()
    retrained = hashlib.sha256(b"retrained").hexdigest()
    bundle.weights.with_name("model.pt.sha256").write_text(f"{retrained}  model.pt\n")
    info = bundle.model_info()
    assert info.weights_sha256 == retrained
    assert info.training_data.startswith("local data")


def test_a_bundle_is_found_by_folder_and_by_name(tmp_path, monkeypatch):
    make_bundle(tmp_path / "mine" / "tiny", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTNET_BUNDLES", str(tmp_path / "mine"))
    assert find_bundle("tiny") == tmp_path / "mine" / "tiny"
    assert find_bundle(str(tmp_path / "mine" / "tiny")).name == "tiny"
    assert ("tiny", "0.1.0") in list_bundles()
    with pytest.raises(BundleError, match="Known bundles: tiny"):
        find_bundle("other")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_a_damaged_config_is_an_error_that_names_the_file(tmp_path, text):
    make_bundle(tmp_path / "b", {})
    (tmp_path / "b" / "configs" / "metadata.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"metadata\.json"):
        Bundle.read(tmp_path / "b")
