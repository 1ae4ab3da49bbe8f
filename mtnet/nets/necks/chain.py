"""Necks one after another as one."""

from __future__ import annotations

from torch import Tensor, nn


class NeckChain(nn.Module):
    """Each neck reads the levels of the one before; ``levels -> levels``.

    Args:
        necks: in their order, each made for the levels of the one before it.

    Raises:
        ValueError: none is given.
    """

    def __init__(self, *necks: nn.Module) -> None:
        super().__init__()
        if not necks:
            raise ValueError("NeckChain has no neck; expected one or more.")
        self.necks = nn.ModuleList(necks)
        self.channels: tuple[int, ...] = tuple(necks[-1].channels)  # type: ignore[arg-type]
        self.strides: tuple[int, ...] = tuple(necks[-1].strides)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Fuse: ``[(B, C_l, *S/s_l), ...]`` to the levels of the last neck."""
        for neck in self.necks:
            levels = neck(levels)
        return levels
