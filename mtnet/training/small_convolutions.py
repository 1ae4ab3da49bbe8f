"""Convolutions whose gradient is wrong in bfloat16 on a CPU are computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.conv_transpose3d)


class SmallConvolutionsInFloat32(TorchFunctionMode):
    """Within it, a convolution of an input that is shorter than its kernel along some axis runs in float32.

    In bfloat16 torch 2.13 leaves parts of some such convolutions' weight gradients unwritten on a CPU: a 3-wide one of
    a depth of 2, the coarsest of five levels for patches of 32 voxels, gets whatever lay in that memory before, values
    of 1e36 among it. Such inputs are small, so that float32 costs nothing.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's answer; of such a convolution in the precision of the autocast around it."""
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not _shorter_than_its_kernel(*args[:2]):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            answer = func(*map(_in_float32, args), **{name: _in_float32(value) for name, value in kwargs.items()})
        return answer.to(torch.get_autocast_dtype("cpu"))


def _shorter_than_its_kernel(x: Tensor, weight: Tensor) -> bool:
    return any(size < width for size, width in zip(x.shape[2:], weight.shape[2:], strict=True))


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
