"""What a node is told in ``node.toml``: tables become frozen dataclasses, and what is wrong is named by its key."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_MIB = 1024**2
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


class ConfigError(ValueError):
    """A key of ``node.toml`` is missing, unknown, or holds what it must not."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate and key of this side, and the authority that the other side's certificate has to come from."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ConfigError("cert and key come together; one of them is missing")
        for name in ("cert", "key", "ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ConfigError(f"{name} is {path}, which is no file")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who may send: an AE title, from an address or network."""

    ae_title: str
    address: str

    def __post_init__(self) -> None:
        _check_ae(self.ae_title)
        try:
            ipaddress.ip_network(self.address)
        except ValueError:
            raise ConfigError(
                f"address is {self.address!r}; expected an IP address or network, such as 10.1.2.0/24"
            ) from None

    def holds(self, address: str) -> bool:
        """Whether an IP address is its own."""
        return ipaddress.ip_address(address) in ipaddress.ip_network(self.address)


@dataclass(frozen=True, slots=True)
class Receiver:
    """The DICOM port, and what one may cost who sends to it.

    Args:
        idle_s: seconds of silence after which an association is ended.
        max_associations: connections at a time; more are closed at once.
        max_pdu_bytes: longest PDU that is taken, and what senders are told.
        max_instance_bytes: of one object; it is held in memory until it is on disk.
        max_memory_bytes: of all objects that are on their way at a time.
        max_study_bytes, max_study_instances: a study that grows larger is set aside.
        reserve_bytes: of free disk; below, nothing more is taken.
    """

    ae_title: str = "MTNET"
    host: str = "127.0.0.1"
    port: int = 11112
    idle_s: float = 60.0
    max_associations: int = 16
    max_pdu_bytes: int = 256 * 1024
    max_instance_bytes: int = 512 * _MIB
    max_memory_bytes: int = 1024 * _MIB
    max_study_bytes: int = 16 * 1024 * _MIB
    max_study_instances: int = 20_000
    reserve_bytes: int = 1024 * _MIB
    tls: Tls | None = None

    def __post_init__(self) -> None:
        _check_ae(self.ae_title)
        _check_port(self.port)
        for name in ("idle_s", "max_associations", "max_instance_bytes", "max_memory_bytes", "max_study_bytes"):
            _check_positive(name, getattr(self, name))
        _check_positive("max_study_instances", self.max_study_instances)
        if not 4096 <= self.max_pdu_bytes <= 16 * _MIB:
            raise ConfigError(f"max_pdu_bytes is {self.max_pdu_bytes}; expected 4096 to {16 * _MIB}")
        if self.reserve_bytes < 0:
            raise ConfigError(f"reserve_bytes is {self.reserve_bytes}; expected 0 or more")


@dataclass(frozen=True, slots=True)
class Route:
    """Series of a study that go to a bundle, and where the answers go.

    Args:
        weights: in place of the bundle's own: a file, or the name of one that the bundle offers. Empty for its own.
        modality, body_part: of the series; a body part is one that BodyPartExamined (0018,0015) holds. Empty for any.
        minimum_slices, largest_angle_deg, excluded_image_types: of the series rule (``mtnet.io.select``); as it is,
            where they are left out.
        strict, repair, allow_outside: as the options of ``mtnet infer``.
        seg: ``binary`` or ``labelmap``.
        capture: whether the overlay goes out as Secondary Capture.
    """

    name: str
    bundle: str
    destination: tuple[str, ...]
    weights: str = ""
    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    minimum_slices: int | None = None
    largest_angle_deg: float | None = None
    excluded_image_types: tuple[str, ...] | None = None
    strict: bool = False
    repair: bool = False
    allow_outside: bool = False
    seg: str = "binary"
    capture: bool = True

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.seg not in ("binary", "labelmap"):
            raise ConfigError(f"seg is {self.seg!r}; expected binary or labelmap")
        if self.strict and (self.repair or self.allow_outside):
            raise ConfigError("strict goes with neither repair nor allow_outside")
        if not self.destination:
            raise ConfigError("destination is empty; name one or more")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where answers go: a DICOM node (``host``, ``port``, ``ae_title``), a DICOMweb server (``url``) or a ``folder``.

    ``timeout_s`` is how long it may be silent.
    """

    name: str
    host: str = ""
    port: int = 104
    ae_title: str = ""
    url: str = ""
    folder: Path | None = None
    timeout_s: float = 30.0
    tls: Tls | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_port(self.port)
        _check_positive("timeout_s", self.timeout_s)
        given = [key for key in ("host", "url", "folder") if getattr(self, key)]
        if len(given) != 1:
            raise ConfigError(f"one of host, url and folder is needed, and {' and '.join(given) or 'none'} is given")
        if self.host:
            _check_ae(self.ae_title)
        if self.url and (urlsplit(self.url).scheme not in ("http", "https") or "@" in urlsplit(self.url).netloc):
            raise ConfigError("url is no http or https URL without credentials (these come from the environment)")


@dataclass(frozen=True, slots=True)
class Source:
    """A DICOMweb server that is asked again and again for studies; new ones are taken as if they had been sent."""

    url: str
    query: Mapping[str, str]
    every_s: float = 300.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        _check_positive("every_s", self.every_s)
        _check_positive("timeout_s", self.timeout_s)


@dataclass(frozen=True, slots=True)
class Retry:
    """Pauses after failures: ``first_s``, then ``factor`` times the last one, at most ``most_s``; after ``attempts``
    failures it is set aside."""

    first_s: float = 10.0
    factor: float = 3.0
    most_s: float = 3600.0
    attempts: int = 8

    def __post_init__(self) -> None:
        for name in ("first_s", "most_s", "attempts"):
            _check_positive(name, getattr(self, name))
        if self.factor < 1:
            raise ConfigError(f"factor is {self.factor}; expected 1 or more")

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        return min(self.first_s * self.factor ** min(failures - 1, 64), self.most_s)


@dataclass(frozen=True, slots=True)
class Health:
    """Where health and metrics are told over HTTP."""

    host: str = "127.0.0.1"
    port: int = 9812

    def __post_init__(self) -> None:
        _check_port(self.port)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A whole ``node.toml``.

    Args:
        state: folder for the queue, for what was received and for answers that wait; made where it is missing.
        quiet_s: seconds without a new instance after which a study counts as complete.
        workers: processes that answer, each with its own copy of the models.
        device: of the workers.
        study_s: seconds that one answer may take.
        stop_s: seconds that running work gets when the node is stopped; what is not done by then is done later.
        keep_hours: that a study which is answered is kept, so that a late instance finds the others.
    """

    state: Path
    route: tuple[Route, ...]
    destination: tuple[Destination, ...]
    quiet_s: float = 30.0
    workers: int = 1
    device: str = "auto"
    study_s: float = 3600.0
    stop_s: float = 30.0
    keep_hours: float = 24.0
    receiver: Receiver = field(default_factory=Receiver)
    sender: tuple[Sender, ...] = ()
    source: tuple[Source, ...] = ()
    retry: Retry = field(default_factory=Retry)
    health: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        for name in ("quiet_s", "workers", "study_s"):
            _check_positive(name, getattr(self, name))
        for name in ("stop_s", "keep_hours"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for kind in ("route", "destination"):
            names = [one.name for one in getattr(self, kind)]
            if not names:
                raise ConfigError(f"there is no [[{kind}]]; at least one is needed")
            if len(set(names)) < len(names):
                raise ConfigError(f"two [[{kind}]] have one name")
        known = {one.name for one in self.destination}
        for route in self.route:
            for name in route.destination:
                if name not in known:
                    raise ConfigError(
                        f"route {route.name!r} goes to {name!r}, which is no [[destination]]; there are "
                        f"{', '.join(sorted(known))}"
                    )
        if not self.sender and not _is_loopback(self.receiver.host):
            raise ConfigError(
                f"receiver.host is {self.receiver.host}, which others reach: list who may send as [[sender]]"
            )


def read_config(path: Path) -> NodeConfig:
    """Read ``node.toml``; relative paths in it are seen from its folder.

    Raises:
        ConfigError: it is no TOML, or a key is missing, unknown or wrong; the message names it.
        OSError: it cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from None
    try:
        made: NodeConfig = _made(NodeConfig, content, path.resolve().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}.") from None
    return made


_TABLES: Mapping[str, type] = {
    "receiver": Receiver, "retry": Retry, "health": Health, "tls": Tls,
    "sender": Sender, "route": Route, "destination": Destination, "source": Source,
}  # fmt: skip
_LISTS = frozenset({"sender", "route", "source"})


def _made(kind: type, table: Any, folder: Path) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{table!r} is no table")
    known = {entry.name: entry for entry in fields(kind)}
    for key in table:
        if key not in known:
            raise ConfigError(f"{key} is not known; expected some of {', '.join(known)}")
    for key, entry in known.items():
        if key not in table and entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(f"{key} is missing")
    values = {}
    for key, value in table.items():
        of_node = kind is NodeConfig and key == "destination"
        if key in _LISTS or of_node:
            entries = value if isinstance(value, list) else [value]
            values[key] = tuple(_nested(key, one, folder, number) for number, one in enumerate(entries, 1))
        elif key in _TABLES and not (kind is Route and key == "destination"):
            values[key] = _nested(key, value, folder, None)
        else:
            values[key] = _value(key, str(known[key].type), value, folder)
    return kind(**values)


def _nested(key: str, value: Any, folder: Path, number: int | None) -> Any:
    try:
        return _made(_TABLES[key], value, folder)
    except ConfigError as error:
        where = key if number is None else f"{key} {number}"
        raise ConfigError(f"{where}: {error}") from None


def _value(key: str, kind: str, value: Any, folder: Path) -> Any:
    """A plain value as its field has it; ``kind`` is the annotation's text."""
    kind = kind.removesuffix(" | None")
    if kind.startswith("tuple"):
        words = [value] if isinstance(value, str) else value
        if isinstance(words, list) and all(isinstance(word, str) and word for word in words):
            return tuple(words)
    elif kind.startswith("Mapping"):
        if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            return dict(value)
    elif kind == "Path" and isinstance(value, str) and value:
        return folder / value
    elif kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif kind in ("int", "str", "bool") and type(value).__name__ == kind:
        return value
    told = {"tuple[str, ...]": "one or more words", "Path": "a path", "Mapping[str, str]": "a table of words"}
    raise ConfigError(f"{key} is {value!r}; expected {told.get(kind, kind)}")


def _check_ae(title: str) -> None:
    if not 1 <= len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ConfigError(f"ae_title is {title!r}; expected 1 to 16 ASCII characters, no backslash")


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}; expected 0 (any that is free) to 65535")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} is {value}; expected more than 0")


def _check_name(name: str) -> None:
    if not name or not set(name) <= _NAME:
        raise ConfigError(f"name is {name!r}; expected lower-case letters, digits, _ and -")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
