"""Batches of windows on the device of the network, where there is one apart from the host: copied ahead of time."""

from __future__ import annotations

import torch
from torch import Tensor

from mtnet.inference.windows import Layout

_SHARE_FOR_IMAGE = 0.25
"""An image that takes up to this share of the device's free memory goes there whole, once."""


class Feeder:
    """Cuts windows out of an image, in float32 on the network's device.

    On a CUDA device the image is copied there once where it fits easily. Else each batch is cut into page-locked memory
    and copied on a stream of its own while the batch before it is in the network (``expect``).

    Args:
        image: ``(1, C, *S)``.
        layout: says where the windows lie.
        device: of the network.
        limit_bytes: of the device's memory, for everything; None where only what is free limits it.
    """

    def __init__(self, image: Tensor, layout: Layout, device: torch.device, limit_bytes: int | None = None) -> None:
        self._layout = layout
        self._device = device
        self._copies: torch.cuda.Stream | None = None
        self._ahead: tuple[range, Tensor] | None = None
        self._image = image
        if device.type == "cuda" and image.device.type == "cpu":
            free, _ = torch.cuda.mem_get_info(device)
            allowed = free if limit_bytes is None else min(free, limit_bytes)
            if 4 * image.numel() <= _SHARE_FOR_IMAGE * allowed:
                self._image = image.to(device, torch.float32)
            else:
                self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def device_bytes(self) -> int:
        """Bytes of the image where it lies on a device that is not the host."""
        return 0 if self._image.device.type == "cpu" else self._image.nbytes

    def batch(self, windows: range) -> Tensor:
        """``(B, C, *window)`` of windows of these numbers."""
        if self._copies is None:
            return self._cut(windows).to(self._device, torch.float32)
        self.expect(windows)
        _, batch = self._ahead or (windows, torch.empty(0))
        self._ahead = None
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._copies)
        # It was made on the stream of copies, whose memory must not be used again before this stream is done with it.
        batch.record_stream(now)
        return batch

    def expect(self, windows: range) -> None:
        """Begin to copy windows that will be asked for next; nothing to do where the image is on the device."""
        if self._copies is None or not len(windows) or (self._ahead is not None and self._ahead[0] == windows):
            return
        cut = self._cut(windows)
        locked = torch.empty(cut.shape, dtype=torch.float32, pin_memory=True)
        locked.copy_(cut)
        with torch.cuda.stream(self._copies):
            self._ahead = windows, locked.to(self._device, non_blocking=True)

    def _cut(self, windows: range) -> Tensor:
        crops = [self._image[(slice(None), slice(None), *self._layout.slices(n))] for n in windows]
        return crops[0] if len(crops) == 1 else torch.cat(crops)
