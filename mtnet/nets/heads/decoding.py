"""A head that decodes first, for tasks that exchange features before their decoder ends."""

from __future__ import annotations

from torch import Tensor, nn

from mtnet.structures import OutputSpec


class DecodingHead(nn.Module):
    """A decoder and a head as one head.

    An interaction stands between a branch's decoder and its head. Where tasks exchange the levels of a pyramid and one
    of them is dense, the way from the pyramid to the image comes after the interaction: it belongs to the head.

    Args:
        decoder: ``[level, ...] -> [level, ...]``.
        head: ``[level, ...] -> {name: tensor}``, for the levels that the decoder gives.
    """

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head
        self.outputs: tuple[OutputSpec, ...] = tuple(head.outputs)  # type: ignore[arg-type]
        self.auxiliary: tuple[OutputSpec, ...] = tuple(getattr(head, "auxiliary", ()))

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[(B, C_l, *S/s_l), ...] -> {name: tensor}``."""
        return self.head(self.decoder(levels))  # type: ignore[no-any-return]
