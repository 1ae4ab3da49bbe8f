"""Where the studies of a batch come from: a folder tree, a manifest, a list of UIDs, or a query to a server."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import parse_qsl

from mtnet.hosts.batch.tasks import Input, file_sha256
from mtnet.hosts.dicomweb import SCHEMES, DicomWeb, check_uid, parse_study_url

_ATTRIBUTE = re.compile(r"[A-Z][A-Za-z]+|[0-9A-F]{8}")


def find_inputs(source: str, *, server: str | None = None, depth: int = 1) -> list[Input]:
    """The inputs of a batch, in the order of their names.

    Args:
        source: a folder, whose entries are the inputs (``depth``); a ``.csv`` with a column ``path``; a ``.json``
            manifest of ``mtnet prepare``; a text file with a path a line, or with a UID a line where there is a
            ``server``; ``dicomweb+http://HOST/dicom-web/studies?ModalitiesInStudy=CT`` (any query of QIDO-RS), or one
            study of a server.
        server: ``dicomweb+http://HOST/dicom-web`` that holds the studies of a list of UIDs.
        depth: how many folders down a tree the inputs lie.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it holds nothing, what it names is not there or no UID, or loose DICOM files lie beside folders.
        DicomWebError: the server cannot be reached or refuses the query.
    """
    if server is not None and not server.startswith(SCHEMES):
        raise ValueError("--server is no DICOMweb server; expected dicomweb+http://HOST/dicom-web.")
    if source.startswith(SCHEMES):
        inputs = _on_server(source)
    else:
        # Another process reads it, on Ray in a folder of its own.
        path = Path(source).absolute()
        if not path.exists():
            raise FileNotFoundError(f"{source} does not exist; give a folder, a manifest, a list, or a DICOMweb query.")
        if path.is_dir():
            inputs = list(_in_folder(path, path, depth))
        elif path.suffix == ".json":
            inputs = _in_manifest(path)
        elif path.suffix == ".csv":
            inputs = _listed(path, _column(path))
        elif server is not None:
            inputs = _uids(path, server.rstrip("/"))
        else:
            inputs = _listed(path, _lines(path))
    unique = {one.id: one for one in inputs}
    if not unique:
        raise ValueError(f"{_told(source)} holds nothing to answer.")
    return sorted(unique.values(), key=lambda one: one.name)


def _on_server(source: str) -> list[Input]:
    root, _, query = source.partition("?")
    if not root.rstrip("/").endswith("/studies"):
        parse_study_url(source)
        return [Input.of(source, source)]
    root = root.rstrip("/")
    asked = dict(parse_qsl(query))
    unknown = sorted(key for key in asked if not _ATTRIBUTE.fullmatch(key))
    if unknown:
        raise ValueError(
            f"The query asks for {', '.join(unknown)}; expected attributes of a study, such as ModalitiesInStudy, "
            "StudyDate or 00080061."
        )
    found = DicomWeb(root.removesuffix("/studies").removeprefix("dicomweb+")).find_studies(asked)
    return [Input.of(f"{root}/{uid}", f"{root}/{uid}") for uid in found]


def _in_folder(root: Path, folder: Path, depth: int) -> Iterator[Input]:
    from mtnet.io.image2d import PICTURE_SUFFIXES
    from mtnet.io.scan import IMAGE_SUFFIXES
    from mtnet.io.video import VIDEO_SUFFIXES

    suffixes = (*IMAGE_SUFFIXES, *PICTURE_SUFFIXES, *VIDEO_SUFFIXES, ".zip")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    alone = [path for path in entries if path.is_file() and path.name.lower().endswith(suffixes)]
    loose = sum(path.is_file() and path not in alone and _is_dicom(path) for path in entries)
    if loose and not folders:
        yield Input.of(folder.relative_to(root).as_posix(), str(folder))
        return
    if loose:
        raise ValueError(
            f"{loose} DICOM file(s) lie beside {len(folders)} folder(s) in a folder of the source: give each study a "
            "folder, or say with --depth how many folders down the studies lie."
        )
    for path in alone:
        yield Input.of(path.relative_to(root).as_posix(), str(path))
    for path in folders:
        if depth > 1:
            yield from _in_folder(root, path, depth - 1)
        else:
            yield Input.of(path.relative_to(root).as_posix(), str(path))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def _in_manifest(path: Path) -> list[Input]:
    from mtnet.sources.manifest import read_manifest

    images = {sample.image for sample in read_manifest(path).samples}
    return [Input.of(os.path.relpath(image, path.parent), str(image)) for image in images]


def _column(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream)
        if "path" not in (table.fieldnames or ()):
            raise ValueError(f"{path.name} has no column 'path'; its columns are {', '.join(table.fieldnames or ())}.")
        return [row["path"] for row in table if row["path"]]


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(
            f"{path.name} is no list: expected text with a path or UID a line. For one study: mtnet infer."
        ) from None
    return [line for line in lines if line and not line.startswith("#")]


def _listed(path: Path, names: list[str]) -> list[Input]:
    missing = [number for number, name in enumerate(names, 1) if not (path.parent / name).exists()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(names)} paths in {path.name} are not there, the first in entry {missing[0]}; "
            "paths are relative to the folder of the list."
        )
    return [Input.of(name, str(path.parent / name)) for name in names]


def _uids(path: Path, server: str) -> list[Input]:
    return [Input.of(uid, f"{server}/studies/{check_uid(uid)}") for uid in _lines(path)]


def _told(source: str) -> str:
    """The source as messages call it: a query may name a patient."""
    return source.partition("?")[0]


def in_shard(one: Input, shard: tuple[int, int]) -> bool:
    """Whether an input is of shard ``i`` of ``n``, counted from 1; the same whatever else the source holds."""
    number, count = shard
    return int(one.id, 16) % count == number - 1


def fingerprint(where: str) -> str:
    """What tells in a moment that a path is the same as before: names, sizes and times of its files, hashed.

    Raises:
        OSError: it cannot be looked at.
    """
    entries = []
    for name, path in _files(Path(where)):
        status = path.stat()
        entries.append((name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def content(where: str, without: Collection[str] = ()) -> str:
    """SHA-256 of names and content of an input's files; of a study on a server that of the UIDs of its instances, which
    never change their content (PS3.5 9).

    Args:
        where: the input's path or URL.
        without: UIDs of instances that do not count: the results that were stored beside the images.

    Raises:
        OSError: a file cannot be read, or the server not be asked.
    """
    digest = hashlib.sha256()
    if where.startswith(SCHEMES):
        web, study, series = parse_study_url(where)
        digest.update(json.dumps(sorted(set(web.find_instances(study, series)) - set(without))).encode())
        return digest.hexdigest()
    for name, path in _files(Path(where)):
        digest.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() + file_sha256(path))
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(path.name, path)]
    found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    return sorted((one.relative_to(path).as_posix(), one) for one in found if one.is_file())
