from __future__ import annotations

import copy
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from mtnet.inference import openvino_pass, runtimes
from mtnet.inference.engine import run
from mtnet.inference.inferer import MultiTaskInferer
from mtnet.inference.openvino_pass import OpenVinoPass
from mtnet.inference.plan import Plan
from mtnet.inference.precision import fast_precision
from mtnet.inference.runtimes import EagerPass, filled, module_of, prepare
from tests.inference.toy_nets import IMAGE, PRED, VALUES, DenseNet

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")


class DenseAndImageNet(nn.Module):
    """A dense and a global output, named against the order of the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = DenseNet(dims=2, outputs=(PRED, VALUES))
        self.outputs = (VALUES, PRED, IMAGE)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self.dense.conv(image)
        flat = image.flatten(1)
        return {"image_class": torch.stack([flat.mean(1), flat.amax(1)], 1), "pred": values, "values": values[:, :2]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def image():
    return torch.randn(1, 1, 48, 40, generator=torch.Generator().manual_seed(0))


def test_openvino_gives_all_outputs_by_name_as_torch_does():
    net = DenseAndImageNet().eval()
    expected = run(net, image(), Plan(window=(16, 16), batch=4))
    got = run(net, image(), Plan(window=(16, 16), batch=4, runtime="openvino"))
    assert (got.dense["pred"].array == expected.dense["pred"].array).mean() > 0.999
    assert abs(got.dense["values"].array - expected.dense["values"].array).max() < 1e-4
    assert (got.global_["image_class"] - expected.global_["image_class"]).abs().max() < 1e-5


def test_the_last_batch_is_filled_up_so_that_one_size_is_compiled():
    net = DenseAndImageNet().eval()
    ready = prepare(net, "openvino", "float32", "cpu")
    windows = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        full, rest = ready(windows[:3], 3)["values"].clone(), ready(windows[3:], 3)["values"].clone()
        expected = net(windows)["values"]
    assert list(ready._compiled) == [(3, 1, 16, 16)]
    assert (torch.cat([full, rest]) - expected).abs().max() < 1e-5
    assert filled(windows, 5) is windows


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_batch_dealt_out_to_streams_comes_back_whole_and_in_order(threads):
    net = DenseAndImageNet().eval()
    ready = prepare(net, "openvino", "float32", "cpu")
    windows = torch.randn(7, 1, 16, 16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            got = {name: tensor.clone() for name, tensor in ready(windows, 7).items()}
            expected = net(windows)
        assert len(ready._compiled[7, 1, 16, 16]._requests) == threads
    finally:
        torch.set_num_threads(before)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_compiled_networks_are_kept_apart_by_precision(tmp_path):
    net = DenseAndImageNet().eval()
    for precision in dict.fromkeys(("float32", fast_precision("cpu", "openvino"))):
        prepare(net, "openvino", precision, "cpu")(torch.randn(1, 1, 16, 16), 1)
    folders = {folder.name.split("-")[1] for folder in (tmp_path / "mtnet" / "compiled" / "openvino").iterdir()}
    assert folders == {openvino_pass._HINTS[p][0] for p in ("float32", fast_precision("cpu", "openvino"))}


def test_half_precision_is_what_the_cpu_tells(monkeypatch):
    class Told:
        def __init__(self, *capabilities):
            self.capabilities = capabilities

        def Core(self):  # noqa: N802
            return self

        def get_property(self, _device, _name):
            return list(self.capabilities)

    for capabilities, expected in (
        (("FP32", "BF16", "INT8"), "bfloat16"),
        (("FP32", "FP16"), "float16"),
        (("FP32",), "float32"),
    ):
        told = Told(*capabilities)
        monkeypatch.setattr(openvino_pass, "import_openvino", lambda told=told: told)
        assert fast_precision("cpu", "openvino") == expected
    with pytest.raises(ValueError, match="no instructions for bfloat16"):
        OpenVinoPass(DenseNet(), ["pred"], "bfloat16", None)


def test_an_answer_that_is_not_torch_s_is_an_error(monkeypatch):
    net = DenseAndImageNet().eval()
    ready = prepare(net, "openvino", "float32", "cpu")
    infer = openvino_pass._Compiled.infer
    monkeypatch.setattr(openvino_pass._Compiled, "infer", lambda *given: [t + 1 for t in infer(*given)])
    with pytest.raises(ValueError, match=r"other answers than torch.*folder of compiled networks"):
        ready(torch.randn(1, 1, 16, 16), 1)


def test_a_network_that_cannot_be_exported_is_an_error_that_says_what_to_use():
    class Undecided(DenseNet):
        def forward(self, image):
            return {"pred": image.repeat(1, 3, 1, 1) if float(image.sum()) > 0 else image}

    ready = prepare(Undecided(dims=2, outputs=(PRED,)), "openvino", "float32", "cpu")
    with pytest.raises(ValueError, match=r"cannot be converted for OpenVINO.*use runtime 'eager' or 'compile'"):
        ready(torch.randn(1, 1, 16, 16), 1)


def test_openvino_says_where_it_cannot_run(monkeypatch):
    with pytest.raises(ValueError, match="runs on the CPU, not on 'cuda'"):
        prepare(DenseNet(), "openvino", "float32", "cuda")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"pip install 'mtnet\[openvino\]'"):
        prepare(DenseNet(), "openvino", "float32", "cpu")


def test_openvino_s_tools_that_report_usage_are_not_run():
    code = (
        "import sys, torch\n"
        "from mtnet.inference.runtimes import prepare\n"
        "from tests.inference.toy_nets import DenseNet\n"
        "prepare(DenseNet(2).eval(), 'openvino', 'float32', 'cpu')(torch.randn(1, 1, 8, 8), 1)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("[]\n", "")


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(runtimes.shutil, "which", lambda _name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*install.*or use runtime 'eager' or 'openvino'"):
        prepare(DenseNet(), "compile", "float32", "cpu")


def test_what_is_no_torch_module_is_passed_eagerly_only():
    class Remote:
        outputs = (PRED,)

        def __call__(self, image):
            return {"pred": image.repeat(1, 3, 1, 1, 1)}

    assert module_of(Remote()) is None
    assert isinstance(prepare(Remote(), "eager", "float32", "cpu"), EagerPass)
    with pytest.raises(ValueError, match="the network is a Remote"):
        prepare(Remote(), "compile", "float32", "cpu")


def test_an_inferer_compiles_once_and_again_when_weights_change():
    net = DenseAndImageNet().eval()
    inferer = MultiTaskInferer((16, 16), sw_batch_size=2, runtime="openvino")
    first = inferer(image(), net)
    kept = inferer._compiled[1]
    assert torch.equal(inferer(image(), net)["values"], first["values"])
    assert inferer._compiled[1] is kept
    with torch.no_grad():
        net.dense.conv.weight.mul_(2)
        net.dense.conv.bias.mul_(2)
    assert (inferer(image(), net)["values"] - 2 * first["values"]).abs().max() < 1e-4
    assert inferer._compiled[1] is not kept
    assert copy.deepcopy(inferer)._compiled is None


def test_a_memory_limit_is_kept_by_what_the_network_takes_in_torch():
    net = DenseAndImageNet().eval()
    plan = Plan(window=(16, 16), batch=16, runtime="openvino", memory_limit_bytes=400_000)
    got = run(net, image(), plan)
    assert any(line.code == "memory_limit_batch" for line in got.lines)
    expected = run(net, image(), Plan(window=(16, 16)))
    assert abs(got.dense["values"].array - expected.dense["values"].array).max() < 1e-4


def test_the_runtime_is_one_that_there_is():
    with pytest.raises(ValueError, match=r"Plan\.runtime is 'tensorrt'; expected one of eager, compile, openvino"):
        Plan(window=(16, 16), runtime="tensorrt")


@pytest.mark.slow
def test_torch_compile_gives_all_outputs_as_torch_does(tmp_path):
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from tests.inference.test_runtimes import *\n"
        "net = DenseAndImageNet().eval()\n"
        "expected = run(net, image(), Plan(window=(16, 16), batch=4))\n"
        "got = run(net, image(), Plan(window=(16, 16), batch=4, runtime='compile'))\n"
        "assert list(got.dense) == ['values', 'pred']\n"
        "assert abs(got.dense['values'].array - expected.dense['values'].array).max() < 1e-4\n"
        "assert (got.global_['image_class'] - expected.global_['image_class']).abs().max() < 1e-5\n"
    )
    # A process of its own: compiling starts helpers and warns in ways that change from one torch to the next.
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert any((tmp_path / "mtnet" / "compiled" / "torch").iterdir())
