"""What goes to a terminal: text from files, which must not steer it, and a bar of what is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def plain(text: str) -> str:
    """Text from a file as it is safe on a terminal: control characters become question marks."""
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def progress_bar(unit: str = "window") -> Iterator[Callable[[int, int], None] | None]:
    """A bar of things done and things to do on standard error, when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=unit, leave=False, file=sys.stderr) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.n = done
            bar.refresh()

        shown: Callable[[int, int], None] = tell
        yield shown
