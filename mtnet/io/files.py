"""Finding the files of an input, in folders or a zip archive, without following it anywhere it shouldn't lead."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

from mtnet.io.limits import Limits
from mtnet.io.verdicts import line
from mtnet.structures.report import RefusedError, ReportLine

_RATIO_FROM_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an input: ``path``, or ``member`` of the zip archive ``path``; its unpacked size."""

    path: Path
    member: str | None
    size: int

    @property
    def where(self) -> str:
        """Its name for reports, without folders on disk."""
        return f"{self.path.name}!{self.member}" if self.member else self.path.name

    @property
    def suffixes(self) -> str:
        """Lower-case ending that a format is known by: ``.nii.gz``, ``.dcm``, or empty."""
        name = (self.member or self.path.name).lower()
        return ".nii.gz" if name.endswith(".nii.gz") else PurePosixPath(name).suffix


@dataclass(frozen=True, slots=True)
class Listing:
    """The regular files of an input, in order of their names, and what was noticed on the way."""

    entries: tuple[FileEntry, ...]
    lines: tuple[ReportLine, ...]


class Opener:
    """Opens file entries for reading; keeps an archive open between its entries. Use as a context manager."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Opener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._archives.clear()

    def open(self, path: Path, member: str | None = None) -> IO[bytes]:
        """A seekable binary stream of the file, or of one entry of the archive (which is never unpacked to disk).

        Raises:
            OSError, zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError: it cannot be opened.
        """
        if member is None:
            return path.open("rb")
        if path not in self._archives:
            self._archives[path] = self._stack.enter_context(zipfile.ZipFile(path))
        return self._archives[path].open(member)


def list_files(path: Path, limits: Limits) -> Listing:
    """List the regular files under ``path``: a folder (nested), a zip archive, or one file.

    Archives inside folders or archives are noted and not opened. Symbolic links are followed once; a folder or file
    that was seen already (by device and inode) is not entered again, so that loops end. Entries of an archive that are
    encrypted, are links, or whose names lead outside are left out with a line of their own.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        RefusedError: a limit is passed (``limit_exceeded``), or the archive is broken (``unreadable_file``).
    """
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {path}. Give a folder, a zip archive or an image file.")
    if path.is_dir():
        return _list_folder(path, limits)
    if is_archive(path):
        return _list_archive(path, limits)
    if not path.is_file():
        raise RefusedError([line("unsupported_format", path.name, reason="it is neither a file nor a folder.")])
    return Listing((FileEntry(path, None, path.stat().st_size),), ())


def is_archive(path: Path) -> bool:
    """Whether a file starts as zip archives do (local header, or end record of an empty one)."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _list_folder(root: Path, limits: Limits) -> Listing:
    entries: list[FileEntry] = []
    lines: list[ReportLine] = []
    passed_over = 0
    seen: set[tuple[int, int]] = set()
    for item in _walk(root, limits, seen, lines):
        try:
            status = item.stat()
        except OSError:
            passed_over += 1
            continue
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode) or identity in seen:
            passed_over += 1
            continue
        seen.add(identity)
        if len(entries) >= limits.files:
            raise RefusedError([line("limit_exceeded", what="The number of files", limit=limits.files)])
        entries.append(FileEntry(item, None, status.st_size))
    if passed_over:
        lines.append(line("link_not_followed", count=passed_over))
    return Listing(tuple(entries), tuple(lines))


def _walk(
    folder: Path, limits: Limits, seen: set[tuple[int, int]], lines: list[ReportLine], depth: int = 0
) -> Iterator[Path]:
    """Every path below ``folder`` that is no folder, in order of names. A folder that cannot be listed adds a line."""
    if depth > limits.depth:
        raise RefusedError([line("limit_exceeded", what="The depth of folders", limit=limits.depth)])
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        with os.scandir(folder) as found:
            items = sorted(found, key=lambda item: item.name)
    except OSError as error:
        lines.append(line("unreadable_file", folder.name, reason=f"the folder cannot be listed ({error.strerror})."))
        return
    for item in items:
        try:
            is_folder = item.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            yield from _walk(Path(item.path), limits, seen, lines, depth + 1)
        else:
            yield Path(item.path)


def _list_archive(path: Path, limits: Limits) -> Listing:
    entries: dict[str, FileEntry] = {}
    lines: list[ReportLine] = []
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise RefusedError([line("unreadable_file", path.name, reason=f"broken zip archive ({error}).")]) from error
    if len(infos) > limits.files:
        raise RefusedError([line("limit_exceeded", path.name, what="The number of entries", limit=limits.files)])
    if sum(info.file_size for info in infos) > limits.archive_bytes:
        raise RefusedError([line("limit_exceeded", path.name, what="The unpacked size", limit=limits.archive_bytes)])
    for info in sorted(infos, key=lambda info: info.filename):
        if info.is_dir():
            continue
        entry = FileEntry(path, info.filename, info.file_size)
        problem = _entry_problem(info, entry, limits, repeated=info.filename in entries)
        if problem is not None:
            lines.append(problem)
        else:
            entries[info.filename] = entry
    return Listing(tuple(entries.values()), tuple(lines))


def _entry_problem(info: zipfile.ZipInfo, entry: FileEntry, limits: Limits, *, repeated: bool) -> ReportLine | None:
    """Why an entry is left out of an archive, or None. Nothing has been unpacked at this point."""
    name = PurePosixPath(info.filename.replace("\\", "/"))
    ratio = info.file_size / max(info.compress_size, 1)
    outside = name.is_absolute() or ".." in name.parts or "".join(name.parts[:1]).endswith(":")
    checks: tuple[tuple[bool, str, dict[str, object]], ...] = (
        (outside, "unsafe_entry", {"what": "named outside its folder"}),
        (stat.S_ISLNK(info.external_attr >> 16), "unsafe_entry", {"what": "a symbolic link"}),
        (repeated, "unsafe_entry", {"what": "named like another one"}),
        (bool(info.flag_bits & 0x1), "encrypted_entry", {}),
        (
            info.file_size > limits.file_bytes,
            "limit_exceeded",
            {"what": "The unpacked size", "limit": limits.file_bytes},
        ),
        (
            info.file_size > _RATIO_FROM_BYTES and ratio > limits.archive_ratio,
            "limit_exceeded",
            {"what": f"The packing ratio of {ratio:.0f}", "limit": limits.archive_ratio},
        ),
    )
    where = f"{entry.path.name}!{name.name}"
    return next((line(code, where, **values) for holds, code, values in checks if holds), None)
