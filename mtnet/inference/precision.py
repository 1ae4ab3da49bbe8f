"""Which half precision a device computes well; asked of the device, never assumed."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]


def fast_precision(device: str, runtime: str = "eager") -> Precision:
    """The half precision that ``device`` does well in a runtime; float32 where it does none well.

    CUDA: bfloat16 where the card has it (compute capability 8.0), else float16. CPU: bfloat16 where it has instructions
    for it (AVX-512 BF16 or AMX); elsewhere half precision is emulated and slower, so float32. OpenVINO is asked itself.
    """
    if runtime == "openvino":
        from mtnet.inference.openvino_pass import openvino_half_precision

        return openvino_half_precision()
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if torch.device(device).type != "cpu":
        return "float32"
    # Older torch has no public way to ask; there the safe answer is float32.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"
