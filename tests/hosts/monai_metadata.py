"""What MONAI's metadata schema of 2024-07-25 asks of a bundle, restated as a JSON Schema (its fields and types).

``python -m monai.bundle verify_metadata`` downloads the schema; the tests have no network.
"""

from __future__ import annotations

from typing import Any

_STRINGS = (
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "task",
    "description",
    "authors",
    "copyright",
    "data_source",
    "data_type",
    "image_classes",
    "label_classes",
    "pred_classes",
    "intended_use",
)
_OBJECTS = ("changelog", "required_packages_version", "eval_metrics", "supported_apps")

_TENSOR_FIELDS: dict[str, Any] = {
    "type": {"type": "string"},
    "format": {"type": "string"},
    "num_channels": {"type": "integer"},
    "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
    "dtype": {"type": "string"},
    "value_range": {"type": "array", "items": {"type": "number"}},
    "is_patch_data": {"type": "boolean"},
    "channel_def": {"type": "object"},
}
_TENSOR = {
    "type": "object",
    "properties": _TENSOR_FIELDS,
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
_ARGUMENT = {"anyOf": [{"type": ["number", "string", "boolean"]}, _TENSOR]}
_NETWORK_IO = {
    "type": "object",
    "properties": {
        name: {"type": "object", "additionalProperties": _ARGUMENT}
        for name in ("inputs", "outputs", "post_processed_outputs")
    },
    "required": ["inputs", "outputs"],
}

METADATA_20240725: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in _STRINGS},
        **{name: {"type": "object"} for name in _OBJECTS},
        "references": {"type": "array", "items": {"type": "string"}},
    },
    "patternProperties": {"^[_a-zA-Z0-9]+_data_format$": _NETWORK_IO},
    "required": [
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    ],
}
