"""One transformer encoder layer that scripts and exports, and pooling to a grid of any size that does too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers, each added and normalised (Vaswani et al., arXiv 1706.03762, section 3).

    It has the parameters and computes the function of ``torch.nn.TransformerEncoderLayer(width, heads, feedforward)``,
    whose short cut for inference neither ONNX nor TensorRT can take.

    Args:
        width: channels of a token.
        heads: of the attention; they divide the width.
        feedforward: channels between the two linear layers.
        dropout: probability with which a value is dropped before each addition.

    Raises:
        ValueError: ``heads`` does not divide ``width``.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"EncoderLayer has {heads} heads; expected a divisor of the width {width}.")
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.from_heads = nn.Linear(width, width)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.to_qkv.weight)
        nn.init.zeros_(self.to_qkv.bias)
        nn.init.zeros_(self.from_heads.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let all tokens see each other: ``(B, N, width) -> (B, N, width)``."""
        batch, count, width = tokens.shape
        qkv = self.to_qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        seen = self.from_heads(seen.transpose(1, 2).reshape(batch, count, width))
        tokens = self.norm_attention(tokens + self.dropout(seen))
        fed = self.contract(self.dropout(F.relu(self.expand(tokens))))
        return self.norm_feedforward(tokens + self.dropout(fed))  # type: ignore[no-any-return]


def pool_to_grid(level: Tensor, grid: int) -> Tensor:
    """Mean of each cell of a grid: ``(B, C, *S) -> (B, C, grid, ...)``, as adaptive average pooling has them.

    Written as one product an axis, because ONNX has adaptive pooling only where the grid divides the size.
    """
    pooled = level
    for _ in range(level.dim() - 2):
        # The first axis that is not pooled yet goes last, is pooled, and stays there: after all of them the order is
        # the first again.
        pooled = pooled.movedim(2, -1)
        size = pooled.shape[-1]
        place = torch.arange(size, device=level.device)[:, None]
        cell = torch.arange(grid, device=level.device)[None]
        first = (cell * size) // grid
        beyond = ((cell + 1) * size + grid - 1) // grid
        inside = ((place >= first) & (place < beyond)).to(pooled.dtype)
        pooled = pooled @ (inside / inside.sum(0))
    return pooled
