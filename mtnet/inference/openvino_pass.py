"""A network through OpenVINO on a CPU: exported by torch, converted in memory, compiled for one size of batch."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtnet.inference.precision import Precision
from mtnet.inference.runtimes import filled

_SIZES_KEPT = 4
"""Compiled networks that are kept: one a size of batch and window. Each holds its own copy of the weights."""

_HINTS: dict[str, tuple[str, str]] = {
    "float32": ("f32", "FP32"),
    "bfloat16": ("bf16", "BF16"),
    "float16": ("f16", "FP16"),
}
"""OpenVINO's name of a precision, and of the capability that a device must tell to do it well."""


def import_openvino() -> Any:
    """The module, without its reports of usage: importing it would begin one, unless its telemetry package is missing.

    Raises:
        ValueError: it is not installed.
    """
    telemetry = "openvino_telemetry"
    was_there, was = telemetry in sys.modules, sys.modules.get(telemetry)
    sys.modules[telemetry] = None  # type: ignore[assignment]  # what the import system takes for "not installed"
    try:
        import openvino
    except ImportError as error:
        raise ValueError(
            f"Runtime 'openvino' needs the package openvino ({error}); install it with: pip install 'mtnet[openvino]'."
        ) from error
    finally:
        if was_there and was is not None:
            sys.modules[telemetry] = was
        else:
            del sys.modules[telemetry]
    return openvino


def openvino_half_precision() -> Precision:
    """The half precision that OpenVINO says this CPU has instructions for; float32 where it has none."""
    told = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in told:
        return "bfloat16"
    return "float16" if "FP16" in told else "float32"


_LARGEST_ERROR: dict[str, float] = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.25}
"""Of a tensor, root of the mean square against torch's over that of torch's: far above rounding, far below nonsense."""


class OpenVinoPass:
    """Passes through OpenVINO.

    Each size is first held against torch on noise, so that a damaged cache or a converter's fault is an error and no
    answer.

    Args:
        module: gives tensors by name; as it is at the first pass of a size.
        names: of its tensors.
        precision: must be one that the CPU does well: elsewhere OpenVINO would take another and not say so.
        cache: folder in which compiled networks are kept between runs, or None.

    Raises:
        ValueError: OpenVINO is missing, or the CPU does not have the precision.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], precision: Precision, cache: Path | None) -> None:
        openvino = import_openvino()
        self._core = openvino.Core()
        self._network, self._precision = _InOrder(module, names), precision
        hint, needed = _HINTS[precision]
        if needed not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ValueError(
                f"This CPU has no instructions for {precision} that OpenVINO could use; use precision 'float32'."
            )
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        if cache is not None:
            # Its key leaves the precision out (2026.4): bfloat16 would be given the network made for float32, and
            # answer nonsense.
            self._settings["CACHE_DIR"] = str(cache / f"{openvino.__version__.split('-')[0]}-{hint}")
        self._compiled: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()

    def __call__(self, windows: Tensor, at_once: int, /) -> Mapping[str, Tensor]:
        """Pass the windows, filled up to ``at_once``. The tensors are OpenVINO's own until the next pass.

        Raises:
            ValueError: the network cannot be exported or converted.
        """
        batch = filled(windows, at_once).contiguous()
        size = tuple(batch.shape)
        if size not in self._compiled:
            compiled = self._compile(batch)
            self._check(compiled, size)
            self._compiled[size] = compiled
            if len(self._compiled) > _SIZES_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(size)
        tensors = self._compiled[size].infer(batch)
        return {name: tensor[: len(windows)] for name, tensor in zip(self._network.names, tensors, strict=True)}

    def _compile(self, batch: Tensor) -> _Compiled:
        # Not openvino.convert_model, which reports usage.
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        streams = min(len(batch), torch.get_num_threads())
        example = batch[: -(-len(batch) // streams)]
        try:
            with torch.no_grad(), _quiet():
                exported = torch.export.export(self._network, (example,))
                frontend = FrontEndManager().load_by_framework("pytorch")
                # By name: OpenVINO does not keep it alive.
                decoder = TorchFXPythonDecoder.from_exported_program(exported)
                model = frontend.convert(frontend.load(decoder))
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"The network cannot be converted for OpenVINO ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "use runtime 'eager' or 'compile'."
            ) from error
        model.reshape(list(example.shape))
        compiled = self._core.compile_model(model, "CPU", {**self._settings, "NUM_STREAMS": streams})
        return _Compiled(compiled, streams)

    def _check(self, compiled: _Compiled, size: tuple[int, ...]) -> None:
        # Noise, for in a window of one value normalisation blows rounding up beyond all bounds.
        noise = torch.rand(size, generator=torch.Generator().manual_seed(0))
        answers = compiled.infer(noise)
        with torch.no_grad():
            expected = self._network(noise)
        for name, got, wanted in zip(self._network.names, answers, expected, strict=True):
            error = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-6))
            if not error <= _LARGEST_ERROR[self._precision]:
                raise ValueError(
                    f"OpenVINO in {self._precision} gives other answers than torch: {name!r} differs by {error:.0%} of "
                    "its size on noise. Use runtime 'eager', or empty the folder of compiled networks "
                    f"({self._settings.get('CACHE_DIR', 'none is used')})."
                )


class _Compiled:
    """A network for batches of one size, each dealt out to streams that do not wait for each other.

    Threads that share a batch meet after every layer; a stream of one thread for each has its own windows instead.

    Args:
        model: compiled for a stream's share of a batch.
        streams: how many it is compiled for.
    """

    def __init__(self, model: Any, streams: int) -> None:
        tensor = import_openvino().Tensor
        self._share = int(model.input(0).shape[0])
        self._answers = [torch.empty(streams * self._share, *list(one.shape)[1:]) for one in model.outputs]
        self._requests = [model.create_infer_request() for _ in range(streams)]
        for request, *parts in zip(
            self._requests, *(torch.split(answer, self._share) for answer in self._answers), strict=True
        ):
            for number, part in enumerate(parts):
                request.set_output_tensor(number, tensor(part.numpy(), shared_memory=True))

    def infer(self, batch: Tensor) -> list[Tensor]:
        """All tensors for a batch; valid until the next one."""
        parts = torch.split(filled(batch, len(self._requests) * self._share), self._share)
        for request, part in zip(self._requests, parts, strict=True):
            request.start_async({0: part.numpy()}, share_inputs=True)
        for request in self._requests:
            request.wait()
        return [answer[: len(batch)] for answer in self._answers]


class _InOrder(nn.Module):
    """A network with its tensors as a tuple."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(names)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The tensors in the order of ``names``."""
        answers = self.module(image)
        missing = [name for name in self.names if name not in answers]
        if missing:
            raise ValueError(f"The network did not give {', '.join(missing)}; it gave {', '.join(answers)}.")
        return tuple(answers[name] for name in self.names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter warns of: operators that it knows under another name, functions that torch renames."""
    was = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(was)
