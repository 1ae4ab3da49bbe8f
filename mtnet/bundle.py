"""A MONAI bundle read as data: its parts are built only from one explicit list of names, nothing in it is evaluated.

MONAI's own parser runs every ``_target_`` and every ``$`` expression of a config, so a downloaded bundle is a program.
Here only the four ids that inference needs are built, with what they reference, from the names in ``ALLOWED`` and of
systems that installed packages declare. All other ids are never looked at. ``monai.utils.run_cmd`` and
``torch.utils.collect_env.run`` show why a prefix such as ``monai.`` would be no fence.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from dataclasses import dataclass, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mtnet.structures import Bounds, InputDomain, ModelInfo

PARTS = ("network_def", "preprocessing", "inferer", "postprocessing")
"""The ids that are built from ``inference.json``."""

_MONAI_TRANSFORMS = (
    "Compose",
    "EnsureChannelFirstd",
    "EnsureTyped",
    "Orientationd",
    "Spacingd",
    "ScaleIntensityRanged",
    "ScaleIntensityd",
    "NormalizeIntensityd",
    "ThresholdIntensityd",
    "CropForegroundd",
    "SpatialPadd",
    "DivisiblePadd",
    "Resized",
    "Activationsd",
    "AsDiscreted",
    "Invertd",
    "DeleteItemsd",
    "SelectItemsd",
    "CopyItemsd",
)

_SYSTEMS = ("chest_ct", "yolo_med", "breast_ultrasound", "unet_v2", "res_mtnet")
_OF_SYSTEMS = ("network", "preprocessing", "inferer")
_FUNCTIONS = (*_OF_SYSTEMS, "postprocessing")

ALLOWED: frozenset[str] = frozenset(
    [
        *(f"monai.transforms.{name}" for name in _MONAI_TRANSFORMS),
        "monai.inferers.SimpleInferer",
        "mtnet.hosts.answers.HostAnswersd",
        "mtnet.inference.MultiTaskInferer",
        "mtnet.io.loader.LoadImageStudyd",
        *(f"mtnet.systems.{system}.{function}" for system in _SYSTEMS for function in _OF_SYSTEMS),
        "mtnet.transforms.NodulePatchd",
        "mtnet.transforms.PictureChannelsd",
        "mtnet.transforms.PictureRanged",
        "mtnet.transforms.ResultJsond",
        "mtnet.transforms.SplitOutputsd",
    ]
)
"""Every name of ours and MONAI's that a bundle may have built for it. Beside these there are four functions of the
systems that installed packages declare; nothing else is imported on a bundle's word."""

SYSTEM_GROUP = "mtnet.systems"
"""Entry-point group of further systems: an entry's value is a module that has some of ``network``, ``preprocessing``,
``inferer`` and ``postprocessing``. Who installs a package trusts it; a bundle can only name what it declares."""

_EVALUATED_KEYS = ("_mode_", "_requires_")
_DISABLED = object()


class BundleError(ValueError):
    """A bundle that is missing, damaged, or asks for something that is not allowed."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder, its metadata and its inference config, as plain data; with ``given_weights`` in place of its own
    where there are such (``with_weights``)."""

    folder: Path
    metadata: dict[str, Any]
    config: dict[str, Any]
    given_weights: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Read ``configs/metadata.json`` and ``configs/inference.json``.

        Raises:
            BundleError: a file is missing or is no JSON object, or the metadata lacks a name or version.
        """
        metadata = _read_object(folder / "configs" / "metadata.json")
        for key in ("name", "version"):
            if not isinstance(metadata.get(key), str):
                raise BundleError(f"{folder / 'configs' / 'metadata.json'}: '{key}' is missing or no text.")
        return cls(folder, metadata, _read_object(folder / "configs" / "inference.json"))

    def with_weights(self, weights: str | Path | None) -> Bundle:
        """The bundle with other weights in place of its own.

        ``other_weights`` of the metadata offers some: file name in ``models`` to what holds of them in place of what
        the metadata say (``weights_sha256``, ``training_data``, ``weights_licence``, ``input_domain``...) and, as
        ``config``, ids of the inference config (``labels``, ``size``). Whatever file has that SHA-256 is known as such.

        Args:
            weights: a file, or the name of one that the bundle offers; None for its own.

        Raises:
            BundleError: the file by that name is not the one that was published.
        """
        if weights is None:
            return self
        path, offered = Path(weights), self.other_weights()
        by_name = str(weights) in offered and not path.is_file()
        path = self.folder / "models" / path if by_name else path
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        told = next((entry for entry in offered.values() if entry.get("weights_sha256") == digest), None)
        if by_name and digest is not None and told is None:
            raise BundleError(f"{path}: SHA-256 is {digest}, but metadata.json says another. Fetch the bundle again.")
        if told is None:
            return replace(self, given_weights=path)
        metadata = {**self.metadata, **{key: value for key, value in told.items() if key != "config"}}
        return replace(self, given_weights=path, metadata=metadata, config={**self.config, **told.get("config", {})})

    def other_weights(self) -> dict[str, dict[str, Any]]:
        """What the metadata say of further weights, by file name.

        Raises:
            BundleError: it is no object of objects.
        """
        offered = self.metadata.get("other_weights", {})
        entries = [offered, *offered.values()] if isinstance(offered, dict) else [offered]
        entries += [entry.get("config", {}) for entry in entries[1:] if isinstance(entry, dict)]
        if not all(isinstance(entry, dict) for entry in entries):
            file = self.folder / "configs" / "metadata.json"
            raise BundleError(f"{file}: other_weights is no object of objects; expected a file's name to what it is.")
        return dict(offered)

    @property
    def weights(self) -> Path:
        """The state dict: what was given, else ``models/model.pt``."""
        return self.given_weights or self.folder / "models" / "model.pt"

    def build(self, part: str) -> Any:
        """Build one of ``PARTS`` from the names in ``ALLOWED``.

        Raises:
            BundleError: the part is missing, or it or what it references asks for something that is not allowed.
        """
        if part not in PARTS:
            raise BundleError(f"'{part}' is not built from a bundle; only {', '.join(PARTS)} are.")
        if part not in self.config:
            raise BundleError(f"{self._file}: id '{part}' is missing.")
        return self._value(self.config[part], part, ())

    def check_weights(self) -> str:
        """Compare the weights with the SHA-256 in the metadata and return their hash.

        A file beside the weights, ``model.pt.sha256``, written by training, names locally trained weights. Weights that
        were given are taken on the user's word.

        Raises:
            BundleError: the weights are missing, or are neither the published nor the locally trained ones.
        """
        if not self.weights.is_file():
            offered = ", ".join(self.other_weights()) or "none by name"
            why = (
                "the bundle has no weights. Fetch them or train the bundle"
                if not self.given_weights
                else f"no such file. Beside its own weights the bundle offers {offered}"
            )
            raise BundleError(f"{self.weights} is missing: {why}.")
        digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()
        published = self.metadata.get("weights_sha256")
        if self.given_weights or digest == published or digest == self._local_hash():
            return digest
        raise BundleError(
            f"{self.weights}: SHA-256 is {digest}, but metadata.json says {published}. The file is damaged or was "
            "replaced. Fetch the bundle again; training writes model.pt.sha256 beside weights of your own."
        )

    def model_info(self) -> ModelInfo:
        """What results say about the network; checks the weights."""
        digest = self.check_weights()
        trained_on = str(self.metadata.get("training_data", "unknown"))
        if digest != self.metadata.get("weights_sha256"):
            trained_on = f"local data (first trained on: {trained_on})"
        return ModelInfo(
            name=self.metadata["name"],
            version=self.metadata["version"],
            weights_sha256=digest,
            training_data=trained_on,
            weights_licence=str(self.metadata.get("weights_licence", "")),
        )

    def input_domain(self) -> InputDomain | None:
        """The images that the network is made for; None where ``metadata.json`` does not declare them.

        Raises:
            BundleError: ``input_domain`` is not what ``InputDomain`` describes.
        """
        declared = self.metadata.get("input_domain")
        if declared is None:
            return None
        file = self.folder / "configs" / "metadata.json"
        values: dict[str, Any] = _named(declared, InputDomain, f"{file}: input_domain")
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
            elif isinstance(value, dict) and name != "verdicts":
                values[name] = _made(Bounds, value, f"{file}: input_domain#{name}")
        made: InputDomain = _made(InputDomain, values, f"{file}: input_domain")
        return made

    @property
    def _file(self) -> Path:
        return self.folder / "configs" / "inference.json"

    def _local_hash(self) -> str | None:
        side_car = self.weights.with_name(self.weights.name + ".sha256")
        return side_car.read_text(encoding="ascii").split()[0] if side_car.is_file() else None

    def _value(self, value: Any, where: str, open_ids: tuple[str, ...]) -> Any:
        """Turn one JSON value into what it describes; ``where`` is its id path, ``open_ids`` those being resolved."""
        if isinstance(value, str):
            return self._text(value, where, open_ids)
        if isinstance(value, list):
            items = [self._value(item, f"{where}#{n}", open_ids) for n, item in enumerate(value)]
            return [item for item in items if item is not _DISABLED]
        if isinstance(value, dict):
            return self._object(value, where, open_ids)
        return value

    def _text(self, text: str, where: str, open_ids: tuple[str, ...]) -> Any:
        if text.startswith(("$", "%")):
            raise BundleError(
                f"{self._file}: {where} is {text!r}: expressions ($) and macros (%) are not evaluated. "
                "Use --trust-bundle only if you trust the bundle as you would a program."
            )
        if not text.startswith("@"):
            return text
        target = text[1:].replace("::", "#")
        if target in open_ids:
            raise BundleError(f"{self._file}: {where} references {text!r} in a circle.")
        found: Any = self.config
        for key in target.split("#"):
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise BundleError(f"{self._file}: {where} references {text!r}, which does not exist.") from None
        return self._value(found, target, (*open_ids, target))

    def _object(self, value: dict[str, Any], where: str, open_ids: tuple[str, ...]) -> Any:
        for key in _EVALUATED_KEYS:
            if key in value:
                raise BundleError(f"{self._file}: {where} uses '{key}', which is not allowed in a bundle read as data.")
        disabled = value.get("_disabled_", False)
        if not isinstance(disabled, bool):
            raise BundleError(f"{self._file}: {where}#_disabled_ is {disabled!r}; expected true or false.")
        if disabled:
            return _DISABLED
        arguments = {
            key: self._value(item, f"{where}#{key}", open_ids)
            for key, item in value.items()
            if key not in ("_target_", "_disabled_", "_desc_")
        }
        arguments = {key: None if item is _DISABLED else item for key, item in arguments.items()}
        if "_target_" not in value:
            return arguments
        try:
            return _allowed(value["_target_"], f"{self._file}: {where}")(**arguments)
        except TypeError as error:
            raise BundleError(f"{self._file}: {where} ({value['_target_']}): {error}") from error


def find_bundle(name: str) -> Path:
    """The folder of a bundle given as a folder or a name.

    A name is looked for in ``./bundles``, in each folder of ``$MTNET_BUNDLES``, and in the user's cache.

    Raises:
        BundleError: there is none; the message lists where it was looked for.
    """
    given = Path(name)
    if (given / "configs" / "metadata.json").is_file():
        return given
    places = bundle_places()
    for place in places:
        if (place / name / "configs" / "metadata.json").is_file():
            return place / name
    known = ", ".join(bundle_folders()) or "none"
    looked = ", ".join(str(place) for place in places)
    raise BundleError(
        f"--bundle {name}: neither a bundle folder (with configs/metadata.json) nor a name found in {looked}. "
        f"Known bundles: {known}. Set MTNET_BUNDLES to the folder that holds your bundles."
    )


def bundle_places() -> tuple[Path, ...]:
    """The folders in which a bundle's name is looked for, first one first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtnet" / "bundles"
    listed = [Path(p) for p in os.environ.get("MTNET_BUNDLES", "").split(os.pathsep) if p]
    return (Path("bundles"), *listed, cache)


def bundle_folders() -> dict[str, Path]:
    """The folder of every bundle that a name can find, by name, whether it can be read or not."""
    found: dict[str, Path] = {}
    for place in bundle_places():
        for file in sorted(place.glob("*/configs/metadata.json")):
            found.setdefault(file.parents[1].name, file.parents[1])
    return dict(sorted(found.items()))


def list_bundles() -> list[tuple[str, str]]:
    """Name and version of every bundle that a name can find; the version is empty where its metadata are damaged."""
    return [(name, _version_of(folder)) for name, folder in bundle_folders().items()]


def _version_of(folder: Path) -> str:
    try:
        return str(_read_object(folder / "configs" / "metadata.json").get("version", ""))
    except BundleError:
        return ""


def _named(value: Any, kind: type, where: str) -> dict[str, Any]:
    """A JSON object, all of whose keys are fields of a dataclass."""
    known = [entry.name for entry in fields(kind)]
    if not isinstance(value, dict):
        raise BundleError(f"{where} is {value!r}; expected an object with some of {', '.join(known)}.")
    for key in value:
        if key not in known:
            raise BundleError(f"{where}#{key} is not known; expected some of {', '.join(known)}.")
    return dict(value)


def _made(kind: type, value: dict[str, Any], where: str) -> Any:
    try:
        return kind(**_named(value, kind, where))
    except ValueError as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{where}#{error}") from None


def _allowed(name: Any, where: str) -> Any:
    """The object behind a full name of ``ALLOWED`` or of an installed system; nothing else is imported."""
    if not isinstance(name, str) or not (name in ALLOWED or _is_installed(name)):
        raise BundleError(
            f"{where}: _target_ {name!r} is not on the list of what a bundle may use. Write the full name of a listed "
            f"part, install the package that declares it in the entry-point group {SYSTEM_GROUP!r}, or use "
            "--trust-bundle only if you trust the bundle as you would a program."
        )
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"{where}: _target_ {name!r} cannot be loaded: {error}") from error


def _is_installed(name: str) -> bool:
    """Whether it is one of the four functions of a system that an installed package declares."""
    module, _, attribute = name.rpartition(".")
    return attribute in _FUNCTIONS and module in {entry.value for entry in entry_points(group=SYSTEM_GROUP)}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{file} is missing: the folder is no bundle, or an incomplete one.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{file} is no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise BundleError(f"{file} holds {type(content).__name__}; expected a JSON object.")
    return content
