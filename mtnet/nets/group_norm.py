"""Group norm (Wu and He, arXiv 1803.08494) whose gradient is fast with channels last on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's, with a gradient of our own where torch 2.13 is slow: on a CPU with channels last, in half precision and
    in float32 with few channels. Both were large parts of a step of the chest-CT network (``benchmarks/steps.py``).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise: ``(B, C, *S) -> (B, C, *S)``."""
        if not torch.jit.is_scripting() and input.requires_grad and _torch_is_slow(input):  # type: ignore[attr-defined]
            answer: Tensor = _GroupNorm.apply(  # type: ignore[no-untyped-call]
                input, self.weight, self.bias, self.num_groups, self.eps
            )
            return answer
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _torch_is_slow(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.ndim not in (4, 5):
        return False
    half = x.dtype in (torch.bfloat16, torch.float16)
    # With 16 channels or fewer torch's own takes twice as long and more in float32, on one thread.
    if not half and (x.dtype != torch.float32 or x.shape[1] > 16):
        return False
    return x.is_contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        size = x[0, 0].numel()
        answer, mean, inverse = torch.native_group_norm(
            x, weight.to(x.dtype), bias.to(x.dtype), batch, channels, size, groups, eps
        )
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.groups = groups
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With x' = (x - m) r of a group of n values: dx = r w g - (r/n) (sum(w g) + x' sum(w g x'))."""
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        batch, channels = x.shape[:2]
        each, size = channels // ctx.groups, x[0, 0].numel()
        # Of each channel, in float32 whatever the answers have.
        mean = mean.float().repeat_interleave(each, 1)
        inverse = inverse.float().repeat_interleave(each, 1)
        slope = torch.empty_like(x)
        of_weight, of_bias = torch.zeros(channels), torch.zeros(channels)
        for number in range(batch):
            rows, given = _rows(x[number]).float(), _rows(gradient[number]).float()
            wide = rows.shape[1] // channels
            sums = given.sum(0).view(wide, channels).sum(0)
            products = (given * rows).sum(0).view(wide, channels).sum(0)
            m, r = mean[number], inverse[number]
            products = (products - m * sums) * r
            of_bias += sums
            of_weight += products
            share = (weight.float() * torch.stack([sums, products])).view(2, ctx.groups, each).sum(2)
            constant, linear = (share / (each * size)).repeat_interleave(each, 1)
            linear = linear * r
            own = _rows(slope[number])
            # Half precision has float32 copies to work in, float32 must leave what it was given as it is.
            out = own if own.dtype == rows.dtype else rows
            torch.sub(rows, m.repeat(wide), out=out).mul_(-linear.repeat(wide)).sub_(constant.repeat(wide))
            out.addcmul_(given, weight.float().repeat(wide)).mul_(r.repeat(wide))
            if out is not own:
                own.copy_(out)
        return slope, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None


def _rows(x: Tensor) -> Tensor:
    """Lines along the last axis of ``(C, *S)`` with the channels of each place side by side, ``(rows, W * C)``."""
    return x.movedim(0, -1).view(-1, x.shape[-1] * x.shape[0])
