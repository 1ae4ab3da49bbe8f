"""Files appear whole or not at all: a temporary name beside the target, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and put what was written under ``path`` when the block ends well.

    The temporary path is in the same folder and ends in the same suffixes (writers choose their format by them); its
    name starts with a dot: ``.volume-0.tmp-3f9a1c02.nii.gz``. When the block raises, it is removed and ``path`` stays
    as it was. The new file has the permissions that a plainly opened file would have.

    Args:
        path: the file to make or to replace.

    Yields:
        the path to write to, which does not exist yet.

    Raises:
        FileNotFoundError: the folder of ``path`` does not exist, or the block wrote nothing.
        IsADirectoryError: ``path`` is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder of {path} does not exist. Make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file to write.")
    stem, dot, suffixes = path.name.lstrip(".").partition(".")
    temporary = path.parent / f".{stem}.tmp-{secrets.token_hex(4)}{dot}{suffixes}"
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"Nothing was written for {path}.")
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Ask the system to bring a file or folder to disk; some file systems cannot sync a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
