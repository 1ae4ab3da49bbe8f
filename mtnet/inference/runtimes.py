"""What passes windows through a network: torch as it is, torch compiled, or OpenVINO. The answers keep their names.

Compiled runtimes are made for one size of batch. Fewer windows are filled up with empty ones, whose answers are
dropped, so nothing is compiled twice for the last batch of an image.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from mtnet.inference.precision import Precision
from mtnet.structures import OutputSpec

Runtime = Literal["eager", "compile", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


class Network(Protocol):
    """What the engine needs of a network: it says what its outputs are, and gives them by tensor name."""

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """What the outputs are."""

    def __call__(self, image: Tensor, /) -> Mapping[str, Tensor]:
        """Every tensor of every output for a batch of windows ``(B, C, *window)``."""


class Pass(Protocol):
    """One pass of a network in a runtime."""

    def __call__(self, windows: Tensor, at_once: int, /) -> Mapping[str, Tensor]:
        """The network's tensors for ``windows`` ``(B, C, *window)``, B at most ``at_once``, the size of full batches.

        They are valid until the next pass.
        """


def prepare(net: Network, runtime: Runtime, precision: Precision, device: str) -> Pass:
    """Make a network ready for passes in a runtime. Compiling itself waits for the first pass, which tells the size.

    Args:
        net: on ``device``, in the mode in which it is to answer. Compiled runtimes take what it holds now: weights that
            are changed later do not count in OpenVINO.
        runtime: ``eager``, ``compile`` (``torch.compile``) or ``openvino`` (CPU only, extra ``openvino``).
        precision: of torch by autocast; of OpenVINO its own.
        device: where the windows are.

    Raises:
        ValueError: the runtime is not installed, cannot run here, or cannot take this network; says what to do.
    """
    if runtime == "eager":
        return EagerPass(net, precision, device)
    module = module_of(net)
    if module is None:
        raise ValueError(
            f"Runtime {runtime!r} compiles a torch module, and the network is a {type(net).__name__} or is called with "
            "further arguments; use runtime 'eager'."
        )
    if runtime == "compile":
        return CompiledPass(net, module, precision, device)
    if torch.device(device).type != "cpu":
        raise ValueError(f"Runtime 'openvino' runs on the CPU, not on {device!r}; use device 'cpu' or another runtime.")
    from mtnet.inference.openvino_pass import OpenVinoPass

    return OpenVinoPass(module, tensor_names(net), precision, compiled_folder("openvino"))


def module_of(net: object) -> nn.Module | None:
    """The torch module behind a network: itself, or what a view of one names as ``module``; None if there is none."""
    inner = getattr(net, "module", net)
    return inner if isinstance(inner, nn.Module) else None


def tensor_names(net: Network) -> tuple[str, ...]:
    """Names of all tensors that the network gives, in the order of its outputs."""
    return tuple(name for spec in net.outputs for name in spec.tensor_names)


def compiled_folder(runtime: str) -> Path | None:
    """Where compiled networks are kept between runs, made where it is missing; None where it cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mtnet" / "compiled" / runtime
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


class EagerPass:
    """The network as it is, under autocast where half precision is asked for."""

    def __init__(self, net: Network, precision: Precision, device: str) -> None:
        self._net = net
        self._precision, self._device = precision, torch.device(device).type

    def __call__(self, windows: Tensor, at_once: int, /) -> Mapping[str, Tensor]:
        """Pass as many windows as there are."""
        with autocast(self._precision, self._device):
            return self._net(windows)


class CompiledPass:
    """The network through ``torch.compile`` for batches of one size.

    Inductor keeps what it compiled in the user's cache, or where ``TORCHINDUCTOR_CACHE_DIR`` says, and takes it from
    there in the next run.

    Raises:
        ValueError: there is no compiler that Inductor could use on a CPU.
    """

    def __init__(self, net: Network, module: nn.Module, precision: Precision, device: str) -> None:
        self._names = tensor_names(net)
        self._precision, self._device = precision, torch.device(device).type
        if self._device == "cpu":
            _find_compiler()
        folder = compiled_folder("torch")
        # Importing MONAI is enough for Inductor to name its own folder among the temporary files.
        own = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir() + "/torchinductor_"))
        if folder is not None and own.parent == Path(tempfile.gettempdir()) and own.name.startswith("torchinductor_"):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        self._compiled: Any = torch.compile(module, dynamic=False)

    def __call__(self, windows: Tensor, at_once: int, /) -> Mapping[str, Tensor]:
        """Pass the windows, filled up to ``at_once``.

        Raises:
            ValueError: the compiler failed.
        """
        try:
            with autocast(self._precision, self._device):
                answers: Mapping[str, Tensor] = self._compiled(filled(windows, at_once))
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise ValueError(
                f"torch.compile could not compile the network ({str(error).splitlines()[0]}). It needs a C++ compiler "
                "and Python's headers; use runtime 'eager' or 'openvino'."
            ) from error
        return {name: answers[name][: len(windows)] for name in self._names if name in answers}


def autocast(precision: Precision, device_type: str) -> AbstractContextManager[Any]:
    """Autocast to a half precision; nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device_type, getattr(torch, precision))


def filled(windows: Tensor, at_once: int) -> Tensor:
    """``windows`` with zeros behind them up to ``at_once``."""
    missing = at_once - len(windows)
    return windows if missing <= 0 else torch.cat([windows, windows.new_zeros(missing, *windows.shape[1:])])


def _find_compiler() -> None:
    usual: Sequence[str] = {"darwin": ("clang++",), "win32": ("cl",)}.get(sys.platform, ("g++",))
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else usual
    if not any(shutil.which(name.split()[0]) for name in wanted):
        raise ValueError(
            f"Runtime 'compile' needs a C++ compiler, and {wanted[0]} is not found. Install it (Debian, Ubuntu: "
            "apt-get install g++), name another in CXX, or use runtime 'eager' or 'openvino'."
        )
