"""Cross-scale interaction between tasks: one transformer layer over the pooled levels of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.nets.interactions.attention import EncoderLayer, pool_to_grid

Scales = Literal["cross", "same"]


class CrossScaleInteraction(nn.Module):
    """Every level of every task learns from all others (the idea of YOLO-Med, arXiv 2403.00245, section 2.3).

    The paper names a transformer layer that fuses the scales of both decoders and leaves the rest open. Our build: each
    map is pooled to one grid; embeddings of its stride, its task and the place are added; one encoder layer sees all
    tokens; its answer is split, resized to each map's size and added to it, times a scale that is 0 at first. So the
    module is the identity before it is trained, and a network with it starts where the one without it stands. With
    256 channels the encoder layer has 789,760 parameters.

    Args:
        spatial_dims: 2 or 3.
        channels: by task, channels of the levels that its decoder gives.
        strides: by task, of the same levels.
        joined_strides: of the levels that take part, all by default; the others pass unchanged.
        scales: ``cross``: all tokens see each other; ``same``: only those of levels of one stride do.
        grid: cells along each axis of a pooled map.
        width: channels of a token. Levels of another width go through a linear layer each way.
        heads: of the attention.
        feedforward: channels inside the encoder layer.
        dropout: inside the encoder layer.

    Raises:
        ValueError: fewer than two tasks, channels and strides that do not fit, an unknown ``scales``, or a level that
            would see nothing but itself.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        *,
        joined_strides: Sequence[int] | None = None,
        scales: Scales = "cross",
        grid: int = 10,
        width: int = 256,
        heads: int = 8,
        feedforward: int = 1024,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_tasks(channels, strides)
        if scales not in get_args(Scales):
            raise ValueError(f"CrossScaleInteraction scales is {scales!r}; expected 'cross' or 'same'.")
        if grid < 1:
            raise ValueError(f"CrossScaleInteraction grid is {grid}; expected 1 cell or more along each axis.")
        present = sorted({stride for task in strides for stride in strides[task]})
        joined = present if joined_strides is None else sorted(set(joined_strides))
        if not joined or not set(joined) <= set(present):
            raise ValueError(f"CrossScaleInteraction joined_strides is {joined}; the tasks have levels at {present}.")
        self.tasks: tuple[str, ...] = tuple(channels)
        self.grid = grid
        self.width = width
        self.shape = [grid] * spatial_dims
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

        # Maps in the order of their tokens: by stride, then by task.
        maps = [
            (task_number, level, stride_number)
            for stride_number, stride in enumerate(joined)
            for task_number, task in enumerate(self.tasks)
            for level, own in enumerate(strides[task])
            if own == stride
        ]
        self.map_task = [self.tasks[task] for task, _, _ in maps]
        self.map_level = [level for _, level, _ in maps]
        self.map_task_number = [task for task, _, _ in maps]
        self.map_stride_number = [stride for _, _, stride in maps]
        # Maps of one group see each other.
        self.groups = [[n for n, m in enumerate(maps) if m[2] == stride] for stride in range(len(joined))]
        if scales == "cross":
            self.groups = [list(range(len(maps)))]
        for group in self.groups:
            if len(group) < 2:
                stride = joined[maps[group[0]][2]]
                raise ValueError(
                    f"CrossScaleInteraction: the level of stride {stride} of task {self.map_task[group[0]]!r} would "
                    "see no other level; give it one in another task, or use scales='cross'."
                )
        widths = [channels[self.tasks[task]][level] for task, level, _ in maps]
        self.to_tokens = nn.ModuleList(nn.Identity() if c == width else nn.Linear(c, width) for c in widths)
        self.from_tokens = nn.ModuleList(nn.Identity() if c == width else nn.Linear(width, c) for c in widths)
        self.stride_embedding = nn.Parameter(0.02 * torch.randn(len(joined), width))
        self.task_embedding = nn.Parameter(0.02 * torch.randn(len(self.tasks), width))
        # One table an axis: the place of a cell is the sum of its rows.
        self.place_embedding = nn.Parameter(0.02 * torch.randn(spatial_dims, grid, width))
        self.layer = EncoderLayer(width, heads, feedforward, dropout)
        self.scale = nn.Parameter(torch.zeros(len(maps)))

    def forward(self, levels: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Change the joined levels: ``{task: [(B, C, *S/stride), ...]} -> `` the same, shapes kept."""
        places = self._places()
        tokens: list[Tensor] = []
        for n, to_tokens in enumerate(self.to_tokens):
            pooled = pool_to_grid(levels[self.map_task[n]][self.map_level[n]], self.grid)
            kind = self.stride_embedding[self.map_stride_number[n]] + self.task_embedding[self.map_task_number[n]]
            tokens.append(to_tokens(pooled.flatten(2).transpose(1, 2)) + (places + kind).to(pooled.dtype))

        count = tokens[0].shape[1]
        answers: list[Tensor] = []
        for group in self.groups:
            seen = self.layer(torch.cat([tokens[n] for n in group], 1))
            for i in range(len(group)):
                answers.append(seen[:, i * count : (i + 1) * count])

        changed: dict[str, list[Tensor]] = {}
        for task in self.tasks:
            changed[task] = [level for level in levels[task]]  # noqa: C416  # TorchScript knows no list(...) of a list
        for n, from_tokens in enumerate(self.from_tokens):
            own = levels[self.map_task[n]]
            level = own[self.map_level[n]]
            answer = from_tokens(answers[n]).transpose(1, 2).unflatten(2, self.shape)
            answer = F.interpolate(answer, size=level.shape[2:], mode=self.mode, align_corners=False)
            changed[self.map_task[n]][self.map_level[n]] = level + (self.scale[n] * answer).to(level.dtype)
        return changed

    def _places(self) -> Tensor:
        """Embedding ``(grid ** spatial_dims, width)`` of every cell, the first axis slowest."""
        places = self.place_embedding[0]
        for axis in range(1, self.place_embedding.shape[0]):
            places = (places[:, None] + self.place_embedding[axis][None]).flatten(0, 1)
        return places


def _check_tasks(channels: Mapping[str, Sequence[int]], strides: Mapping[str, Sequence[int]]) -> None:
    if len(channels) < 2 or set(channels) != set(strides):
        raise ValueError(
            f"CrossScaleInteraction has channels of tasks {list(channels)} and strides of {list(strides)}; "
            "expected the same two tasks or more in both."
        )
    for task, widths in channels.items():
        if len(widths) != len(strides[task]):
            raise ValueError(
                f"CrossScaleInteraction: task {task!r} has {len(widths)} channels and {len(strides[task])} strides; "
                "expected one of each a level."
            )
