"""What was noticed about an input: notes, flags, repairs and refusals, each with a code that a program can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["note", "flagged", "repaired", "refused"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One thing noticed.

    Args:
        code: stable lower-case name of the kind of finding, such as ``missing_slices``.
        severity: ``note``; ``flagged``, what whoever uses the answer has to know; ``repaired``; ``refused``.
        message: a sentence for a person, without patient data.
        where: the file name, tag, series UID or stage that it is about; empty for the input as a whole.
    """

    code: str
    severity: Severity
    message: str
    where: str = ""

    def __post_init__(self) -> None:
        if not self.code or self.code != self.code.lower() or " " in self.code:
            raise ValueError(f"ReportLine.code is {self.code!r}; expected a lower_case_name.")
        if self.severity not in SEVERITIES:
            raise ValueError(f"ReportLine.severity is {self.severity!r}; expected one of {', '.join(SEVERITIES)}.")
        if not self.message:
            raise ValueError(f"ReportLine.message of {self.code!r} is empty; say what was found.")


@dataclass(frozen=True, slots=True)
class InputReport:
    """An ordered list of report lines. Adding returns a new report."""

    lines: tuple[ReportLine, ...] = ()

    def __iter__(self) -> Iterator[ReportLine]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def plus(self, lines: Iterable[ReportLine]) -> InputReport:
        """This report followed by ``lines``; a line that is there already is not repeated."""
        merged = list(self.lines)
        merged.extend(line for line in lines if line not in self.lines)
        return InputReport(tuple(merged))

    @property
    def refusals(self) -> tuple[ReportLine, ...]:
        """The lines of severity ``refused``."""
        return tuple(line for line in self.lines if line.severity == "refused")

    @property
    def codes(self) -> tuple[str, ...]:
        """The code of every line, in order."""
        return tuple(line.code for line in self.lines)


class RefusedError(ValueError):
    """An input that is not read, because an answer from it could be wrong. Holds the lines that say why."""

    def __init__(self, lines: Iterable[ReportLine]) -> None:
        self.lines = tuple(lines)
        super().__init__(
            "\n".join(f"{line.message}{f' [{line.where}]' if line.where else ''} ({line.code})" for line in self.lines)
        )
