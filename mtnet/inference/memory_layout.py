"""In what form a network runs on a device: what is fast depends on it, and values differ in their last bits."""

from __future__ import annotations

import torch
from torch import nn

from mtnet.nets.upsampled_conv import fold_upsampling


def kernel_dims(network: nn.Module) -> int:
    """2 or 3, as the first kernel of the network tells, and 3 where there is none."""
    return next((weight.ndim - 2 for weight in network.parameters() if weight.ndim in (4, 5)), 3)


def lay_out(network: nn.Module, device: str) -> None:
    """Move a network to a device in the layout in which all faces of mtnet run it there, so that they answer alike.

    On a CPU channels last is faster for convolutions, and so is a convolution that upsamples by itself; on CUDA neither
    has been measured.
    """
    last = torch.channels_last if kernel_dims(network) == 2 else torch.channels_last_3d
    on_cpu = torch.device(device).type == "cpu"
    layout = last if on_cpu else torch.contiguous_format
    network.to(device=device)
    network.to(memory_format=layout)  # type: ignore[call-overload]
    fold_upsampling(network, folded=on_cpu)
