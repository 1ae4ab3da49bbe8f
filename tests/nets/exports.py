"""Running an exported network beside the eager one, for the tests of this room."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def onnx_answers(network: nn.Module, arguments: Sequence[Tensor], path: Path, opset: int = 17) -> list[NDArray]:
    """What onnxruntime answers after an export to ``path`` by tracing, in the order of the outputs."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    names = [f"input_{n}" for n in range(len(arguments))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), tuple(arguments), str(path), input_names=names, opset_version=opset, dynamo=False
        )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # What a network does not read is no input of its graph.
    read = {one.name for one in session.get_inputs()}
    return session.run(None, {n: a.numpy() for n, a in zip(names, arguments, strict=True) if n in read})


def assert_same(eager: Sequence[Tensor], exported: Sequence[NDArray], tolerance: float = 1e-4) -> None:
    """Both answer alike, to an absolute and relative tolerance."""
    assert len(eager) == len(exported)
    for one, other in zip(eager, exported, strict=True):
        np.testing.assert_allclose(other, one.detach().numpy(), rtol=tolerance, atol=tolerance)
