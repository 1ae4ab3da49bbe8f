"""A node as its users have it, in a process of its own, and DCMTK's programs that send to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIMIT_S = 240.0
AE_TITLE = "MTNET"
TO_ARCHIVE = """
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "ORTHANC"
"""


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """What the condition gives when it first holds."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"After {limit_s:g} s, still not: {what}")


def write_config(
    folder: Path,
    bundle: Path | str,
    destinations: str,
    *,
    node: str = "quiet_s = 1.0",
    receiver: str = "",
    route: str = "",
    retry: str = "first_s = 0.2\nfactor = 1.5\nattempts = 40",
    more: str = "",
) -> Path:
    """A ``node.toml`` on free ports; ``destinations`` are whole tables, and each is one of its route."""
    names = [line.split("=")[1].strip() for line in destinations.splitlines() if line.startswith("name")]
    path = folder / "node.toml"
    path.write_text(
        f"""
state = "state"
device = "cpu"
{node}
[receiver]
ae_title = "{AE_TITLE}"
port = 0
reserve_bytes = 0
{receiver}
[health]
port = 0
[retry]
{retry}
[[route]]
name = "chest"
bundle = "{bundle}"
destination = [{", ".join(names)}]
{route}
{destinations}
{more}
""",
        encoding="utf-8",
    )
    return path


class Running:
    """A node that runs: its ports, and what it has told."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mtnet", "serve", "--config", str(config)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            told = wait_for(lambda: self.told("listening") or self.process.poll() is not None, "the node listens")
            assert told is not True, "".join(self.raw)
        except BaseException:
            self.kill()
            raise
        self.port: int = told[0]["dicom_port"]
        self.http_port: int = told[0]["http_port"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.raw.append(line)
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def told(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """The lines of an event that have these facts."""
        return [
            line
            for line in list(self.lines)
            if line["event"] == event and all(line.get(key) == value for key, value in facts.items())
        ]

    def wait(self, event: str, count: int = 1, limit_s: float = LIMIT_S, **facts: Any) -> list[dict[str, Any]]:
        """Wait until an event was told so often."""
        try:
            wait_for(lambda: len(self.told(event, **facts)) >= count, f"{count} x {event} {facts}", limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{''.join(self.raw[-40:])}") from None
        return self.told(event, **facts)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the HTTP port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def metric_of(self, name: str, **labels: str) -> float:
        """A metric with these labels; 0 where there is none."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def running(config: Path) -> Iterator[Running]:
    """A node that is killed at the end, whatever happens."""
    node = Running(config)
    try:
        yield node
    finally:
        node.kill()


def storescu(port: int, *paths: Path, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Send files and folders by DCMTK."""
    return subprocess.run(
        ["storescu", "-v", "+sd", "+r", "-aec", AE_TITLE, *options, "127.0.0.1", str(port), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``mtnet serve`` with arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mtnet", "serve", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
