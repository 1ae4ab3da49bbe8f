"""A real archive for tests: Debian's Orthanc with its DICOMweb plugin, on loopback and in a temporary folder."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE = "ORTHANC"
WAIT_S = 120.0


@dataclass(frozen=True)
class Orthanc:
    """A running archive: its ports on 127.0.0.1, and what it takes to ask it."""

    http_port: int
    dicom_port: int
    log: Path
    user: str | None = None
    password: str | None = None

    @property
    def root(self) -> str:
        """Of its own REST API."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """Root of its DICOMweb services."""
        return f"{self.root}/dicom-web"

    def rest(self, path: str, body: bytes | None = None, method: str | None = None) -> Any:
        """The answer of its REST API: JSON, or bytes where it is none."""
        request = urllib.request.Request(f"{self.root}{path}", data=body, method=method)
        if self.user is not None:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            content = answer.read()
        try:
            return json.loads(content)
        except ValueError:
            return content

    def upload(self, *folders: Path) -> None:
        """Store every file in the folders by its REST API."""
        for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
            self.rest("/instances", path.read_bytes())

    def instances(self) -> list[dict[str, Any]]:
        """What it holds, an entry an instance with its ``MainDicomTags``."""
        held: list[dict[str, Any]] = self.rest("/instances?expand")
        return held


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    user: str | None = None,
    password: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Start an archive that keeps everything in ``folder``, wait until it answers, and kill it in the end.

    ``settings`` are further lines of its configuration. Ports are picked by the system; where another process takes
    one before Orthanc does, it is started again with others.
    """
    assert PROGRAM and PLUGIN.is_file(), "Orthanc with its DICOMweb plugin is missing: make judges"
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(5):
        http_port, dicom_port = _free_ports(2)
        archive = Orthanc(http_port, dicom_port, folder / "orthanc.log", user, password)
        process = _start(archive, folder, settings or {})
        try:
            if _answers(archive, process):
                yield archive
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"Orthanc does not start:\n{(folder / 'orthanc.log').read_text(errors='replace')[-2000:]}")


def _start(archive: Orthanc, folder: Path, settings: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    config = {
        "Name": _name(archive),
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": archive.http_port,
        "DicomPort": archive.dicom_port,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": archive.user is not None,
        "RegisteredUsers": {archive.user: archive.password} if archive.user else {},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
    with archive.log.open("ab") as log:
        return subprocess.Popen([str(PROGRAM), str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)


def _answers(archive: Orthanc, process: subprocess.Popen[bytes]) -> bool:
    limit = time.monotonic() + WAIT_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            # An archive of another test may have taken the port in between.
            if archive.rest("/system")["Name"] == _name(archive):
                return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    return False


def _name(archive: Orthanc) -> str:
    return f"{archive.log.parent}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
