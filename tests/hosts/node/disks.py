"""A small disk of its own for a folder, and such a disk when it is full."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Make ``folder``, a disk of ``size`` where this machine lets one mount it; whether it did."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False, timeout=60).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Fill the disk of ``folder``, and whatever becomes free on it; all of it is given back at the end."""
    ballast, enough = folder / "ballast", threading.Event()

    # Unbuffered: a buffer would be written again, and fail again, when the file is closed.
    with ballast.open("wb", buffering=0) as stream:

        def fill() -> None:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                pass

        def keep_full() -> None:
            while not enough.wait(0.02):
                fill()

        fill()
        keeper = threading.Thread(target=keep_full, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            enough.set()
            keeper.join()
            ballast.unlink()
