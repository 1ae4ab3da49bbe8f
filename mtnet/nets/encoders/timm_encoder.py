"""Every 2D backbone of timm (https://github.com/huggingface/pytorch-image-models, Apache-2.0) as an encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from mtnet.nets.state_dict_io import read_state

_LOG = logging.getLogger("mtnet.nets")


class TimmEncoder(nn.Module):
    """The levels of a timm network, by its name there; its own norm, activation and initialisation.

    But one thing: timm sets the last batch norm of a residual block to 0 at first, which is meant for large batches
    (Goyal et al., arXiv 1706.02677, section 5.1). Trained from nothing on a few hundred images, a network learns
    faster where those begin at 1 as all others do, and so they do here.

    timm (and torchvision with it) is imported when the first one is made, not before.

    Args:
        name: ``resnet50``, ``pvt_v2_b2``, ``convnext_tiny.fb_in22k``...: ``timm.list_models()`` lists them.
        in_channels: channels of the image; weights for three are summed or repeated for other numbers, as timm does.
        pretrained: fetch timm's weights (ImageNet for most) from the Hugging Face hub or its cache; with None take them
            where they lie in this machine's cache, begin anew elsewhere, and say which in the log.
        weights: a file with weights in place of that: ``model.safetensors`` or ``pytorch_model.bin`` of timm's own
            page on the hub, or what :func:`mtnet.nets.save_state` wrote of such an encoder.
        output_stride: 8 or 16, to keep the coarse levels that fine by dilation, where timm can.
        options: further arguments of ``timm.create_model``, e.g. ``img_size`` or ``drop_path_rate``.

    Raises:
        RuntimeError: timm cannot be imported, or the weights cannot be fetched; the text tells what to do.
        FileNotFoundError: ``weights`` is not there.
        ValueError: timm has no such network, it gives no levels or cannot be dilated; or the file does not fit it.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 1,
        *,
        pretrained: bool | None = False,
        weights: str | Path | None = None,
        output_stride: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        timm = _import_timm()
        if not timm.is_model(name):
            raise ValueError(f"timm {timm.__version__} has no network {name!r}; timm.list_models() lists its names.")
        self.name = name
        if output_stride is not None:
            options["output_stride"] = output_stride
        if pretrained is None and weights is None:
            pretrained = _has_weights_at_hand(timm, name)
        self.net: nn.Module = _create(timm, name, in_channels, bool(pretrained) and weights is None, options)
        if weights is not None:
            _load(timm, self.net, Path(weights), name, in_channels)
        elif not pretrained:
            _open_residuals(self.net)
        info = self.net.feature_info
        self.channels: tuple[int, ...] = tuple(info.channels())  # type: ignore[operator, union-attr]
        self.strides: tuple[int, ...] = tuple(info.reduction())  # type: ignore[operator, union-attr]
        self.channels_last: bool = getattr(self.net, "output_fmt", "NCHW") == "NHWC"

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give timm's levels, finest first: ``(B, C, H, W) -> [(B, C1, H/s1, W/s1), ...]``."""
        levels: list[Tensor] = self.net(x)
        if self.channels_last:
            levels = [level.permute(0, 3, 1, 2).contiguous() for level in levels]
        return levels


def has_network(name: str) -> bool:
    """Tell whether timm has a network of that name (``RuntimeError`` where timm cannot be imported)."""
    return bool(_import_timm().is_model(name))


def _import_timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"This encoder needs timm, which cannot be imported: {error}. Install timm and a torchvision of the same "
            "build (CPU or CUDA) as torch; `make env` does so, also where torch has no CUDA and torchvision has."
        ) from error
    module: ModuleType = timm
    return module


def _has_weights_at_hand(timm: ModuleType, name: str) -> bool:
    """Whether timm's weights lie in the cache of the hub, so that nothing is fetched; the log says it."""
    if not timm.is_model_pretrained(name):
        _LOG.info("the encoder %s begins anew: timm has no weights for it", name)
        return False
    from huggingface_hub import try_to_load_from_cache

    page = timm.get_pretrained_cfg(name).hf_hub_id
    files = ("model.safetensors", "pytorch_model.bin")
    if page and any(isinstance(try_to_load_from_cache(page, file), str) for file in files):
        _LOG.info("the encoder %s begins with the weights of %s in this machine's cache", name, page)
        return True
    _LOG.info("the encoder %s begins anew: %s is not in this machine's cache; pretrained true fetches it", name, page)
    return False


def _create(timm: ModuleType, name: str, in_channels: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(
            name, pretrained=pretrained, features_only=True, in_chans=in_channels, **options
        )
    except (AssertionError, AttributeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"timm's {name!r} cannot be built as an encoder with in_channels={in_channels}"
            f"{''.join(f', {key}={value}' for key, value in options.items())}: {error or type(error).__name__}. "
            "Not every network of timm gives levels, and few but ResNets, EfficientNets and CSPNets take output_stride."
        ) from error
    except Exception as error:
        if not pretrained:
            raise
        # The hub's client raises errors of its own, of urllib's and of its transport's.
        page = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None) or "timm"
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise RuntimeError(
            f"The weights of timm's {name!r} could not be fetched ({reason}). Fetch model.safetensors from "
            f"https://huggingface.co/{page} where there is a network and pass its path as weights=, or copy that "
            "machine's cache (HF_HOME), or set pretrained to false."
        ) from error
    return net


def _open_residuals(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.is_meta and not layer.weight.any():
            nn.init.ones_(layer.weight)


def _load(timm: ModuleType, net: nn.Module, path: Path, name: str, in_channels: int) -> None:
    """Copy the file's tensors by name; timm flattens the names of an encoder's outer modules (``a.0`` to ``a_0``)."""
    found = {_flat(key): tensor for key, tensor in _read(path).items()}
    state, missing, misshapen = net.state_dict(), [], []
    for key, own in state.items():
        tensor = found.get(_flat(key))
        # Files from before torch 0.4.1 have no counters; no answer depends on them.
        if tensor is None and key.endswith("num_batches_tracked"):
            continue
        if tensor is None:
            missing.append(key)
            continue
        if own.ndim == tensor.ndim == 4 and own.shape[1] == in_channels != tensor.shape[1] == 3:
            tensor = timm.models.adapt_input_conv(in_channels, tensor)
        if tensor.shape != own.shape:
            misshapen.append(f"{key} {tuple(tensor.shape)} instead of {tuple(own.shape)}")
        state[key] = tensor
    if missing or misshapen:
        raise ValueError(
            f"The weights in {path.name} do not fit timm's {name!r}: {len(missing)} tensors missing"
            f" ({', '.join(missing[:4])}), {len(misshapen)} of another shape ({', '.join(misshapen[:4])}). "
            "Expected the file of this network's page on the Hugging Face hub."
        )
    net.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights at {path}.")
    if path.suffix != ".safetensors":
        return read_state(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be read as safetensors: {error}") from error


def _flat(key: str) -> str:
    return key.removeprefix("net.").removeprefix("model.").replace(".", "_")
