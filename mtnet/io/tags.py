"""Values of single DICOM tags, checked where geometry or units hang on them."""

from __future__ import annotations

import math
from typing import Any, Protocol


class Tags(Protocol):
    """Values by keyword: a pydicom data set, or a plain mapping."""

    def get(self, key: str, /) -> Any:
        """The value, ``None`` where absent."""

    def __contains__(self, key: str, /) -> bool: ...


class UnusableError(ValueError):
    """A header value that is there and cannot be used; the message names its tag, never its content."""


def _value(dataset: Tags, keyword: str) -> Any:
    """The converted value, ``None`` where absent or empty.

    Raises:
        UnusableError: the value cannot be converted.
    """
    try:
        value = dataset.get(keyword)
    except Exception as error:
        raise UnusableError(f"{keyword} has a value that is not valid.") from error
    return None if value is None or value in ("", []) else value


def text_of(dataset: Tags, keyword: str) -> str:
    """The value as text, several joined by backslashes; empty where absent or not valid."""
    try:
        value = _value(dataset, keyword)
    except UnusableError:
        return ""
    if value is None:
        return ""
    if not isinstance(value, (str, bytes)) and hasattr(value, "__iter__"):
        return "\\".join(str(item).strip() for item in value)
    return str(value).strip()


def _numbers(dataset: Tags, keyword: str) -> list[float] | None:
    value = _value(dataset, keyword)
    if value is None:
        return None
    items = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError) as error:
        raise UnusableError(f"{keyword} has a value that is not a number.") from error
    if not all(math.isfinite(number) for number in numbers):
        raise UnusableError(f"{keyword} has a value that is not finite.")
    return numbers


def number_of(dataset: Tags, keyword: str) -> float | None:
    """The first number of the value.

    Raises:
        UnusableError: the value is there and no finite number.
    """
    numbers = _numbers(dataset, keyword)
    return numbers[0] if numbers else None


def integer_of(dataset: Tags, keyword: str) -> int | None:
    """``number_of`` as a whole number.

    Raises:
        UnusableError: as ``number_of``.
    """
    number = number_of(dataset, keyword)
    return None if number is None else int(number)


def hint_of(dataset: Tags, keyword: str) -> float | None:
    """A number that nothing depends on: one that is not valid counts as absent."""
    try:
        return number_of(dataset, keyword)
    except UnusableError:
        return None


def count_of(dataset: Tags, keyword: str) -> int | None:
    """``hint_of`` as a whole number."""
    number = hint_of(dataset, keyword)
    return None if number is None else int(number)


def length_of(dataset: Tags, keyword: str) -> float | None:
    """A length; 0 and less mean that it is not known."""
    number = hint_of(dataset, keyword)
    return number if number is not None and number > 0 else None


def position_of(dataset: Tags) -> tuple[float, float, float] | None:
    """ImagePositionPatient: centre of the first pixel in LPS mm; ``None`` unless it has three numbers."""
    numbers = _numbers(dataset, "ImagePositionPatient")
    return (numbers[0], numbers[1], numbers[2]) if numbers is not None and len(numbers) == 3 else None


def pixel_spacing_of(dataset: Tags) -> tuple[float, float] | None:
    """PixelSpacing in mm (between rows, between columns); ``None`` unless both are positive."""
    numbers = _numbers(dataset, "PixelSpacing")
    if numbers is None or len(numbers) != 2 or min(numbers) <= 0:
        return None
    return numbers[0], numbers[1]


def orientation_of(dataset: Tags) -> tuple[float, float, float, float, float, float] | None:
    """Direction cosines, ``None`` unless both are unit vectors at a right angle, to 1e-3 (PS3.3 C.7.6.2.1.1)."""
    numbers = _numbers(dataset, "ImageOrientationPatient")
    if numbers is None or len(numbers) != 6:
        return None
    row, column = numbers[:3], numbers[3:]
    products = (
        sum(a * a for a in row) - 1,
        sum(a * a for a in column) - 1,
        sum(a * b for a, b in zip(row, column, strict=True)),
    )
    if max(abs(product) for product in products) > 1e-3:
        return None
    return row[0], row[1], row[2], column[0], column[1], column[2]


def padding_of(value: int | None, signed: int | None, bits: int | None) -> int | None:
    """A padding value as the stored pixels hold it: its tag may be typed US where pixels are signed, or the reverse."""
    if value is None or bits is None or not 0 < bits <= 64:
        return value
    value %= 2**bits
    return value - 2**bits if signed == 1 and value >= 2 ** (bits - 1) else value
