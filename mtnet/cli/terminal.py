"""What comes from files must not steer the terminal that it is printed to."""

from __future__ import annotations


def plain(text: str) -> str:
    """Text from a file as it is safe on a terminal: control characters become question marks."""
    return "".join(character if character.isprintable() else "?" for character in text)
