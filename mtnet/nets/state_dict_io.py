"""Weights on disk: a plain state dict, half the size, the same bytes for the same weights."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from mtnet.io.atomic import atomic_path


def save_state(net: nn.Module, path: Path) -> None:
    """Write the state dict of ``net``: tensors of two and more dimensions as float16, others as float32.

    Integers (the counters of batch norm) stay. The file appears whole or not at all, and its bytes depend on names and
    values alone, so that its SHA-256 tells the weights.

    Args:
        net: on any device.
        path: file to make or to replace.

    Raises:
        ValueError: a value is beyond float16 (or is not finite); the text names the tensor.
    """
    stored = {name: _stored(name, tensor) for name, tensor in net.state_dict().items()}
    # Through memory: torch.save to a path writes the (temporary) file's name into the archive.
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a plain state dict to the CPU, floating-point tensors as float32. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something other than named tensors.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path.name} cannot be read as a plain state dict of tensors: {error}") from error
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise ValueError(f"{path.name} is not a plain state dict; expected names with one tensor each.")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}


def load_state(net: nn.Module, path: Path) -> None:
    """Give ``net`` the weights of a file, strictly.

    Args:
        net: whose state dict has the same names and shapes.
        path: written by :func:`save_state` or by ``torch.save(net.state_dict(), path)``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plain state dict, or names or shapes differ; the text tells which. ``net`` is unchanged.
    """
    found, expected = read_state(path), net.state_dict()
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing {_some(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"unexpected {_some(unexpected)}")
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if misshapen:
        problems.append(f"wrong shape {_some(misshapen)}")
    if problems:
        raise ValueError(
            f"The weights in {path.name} do not fit the network: {'; '.join(problems)}. "
            "Were they trained with other options (spatial_dims, tasks, labels, channels, norm)?"
        )
    net.load_state_dict(found)


def _stored(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.clone()
    stored = tensor.to(torch.float16 if tensor.ndim >= 2 else torch.float32)
    if not bool(torch.isfinite(stored).all()):
        raise ValueError(f"Tensor {name!r} has values that float16 cannot hold or that are not finite; nothing saved.")
    return stored.clone()


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
