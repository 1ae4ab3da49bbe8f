"""A server of result pages on loopback, for whoever has the address."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from hmac import compare_digest
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mtnet.results.folder import PAGE, PLANE_FILES, RESULT_FILES

_LOOPBACK = "127.0.0.1"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".mp4": "video/mp4",
    ".dcm": "application/dicom",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Of an address that nobody sends anything to.
_IDLE_SECONDS = 30


class PageServer(ThreadingHTTPServer):
    """Serves the pages of a result folder, and of each the files that a run writes, on loopback.

    A request is answered if its Host is this server (a name that a stranger's DNS points here is not), its path starts
    with the random word, and what follows is a file that was there and had the name of a result when the server
    started; links are not followed.

    Args:
        folder: with ``report.html`` in it, or in the folders in it.
        port: on 127.0.0.1; 0 for a free one.

    Raises:
        FileNotFoundError: there is no such folder, or no page.
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        pages = _pages(folder)
        self.token = secrets.token_urlsafe(18)
        self.files = _files(pages)
        self.index = _index([name for name, _ in pages]).encode("utf-8")
        super().__init__((_LOOPBACK, port), _Handler)
        self.hosts = {f"{name}:{self.server_address[1]}" for name in (_LOOPBACK, "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{_LOOPBACK}:{self.server_address[1]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD, and does not tell which Python it runs on."""

    server: PageServer
    timeout = _IDLE_SECONDS
    server_version, sys_version = "mtnet", ""

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Send what goes before a file."""
        self._answer(with_content=False)

    def log_message(self, *_: Any) -> None:
        """Requests hold the random word; they are not logged."""

    def _answer(self, *, with_content: bool) -> None:
        if self.headers.get_all("Host") is None or set(self.headers.get_all("Host", [])) - self.server.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        _, token, name = (*self.path.split("?")[0].split("/", 2), "", "")[:3]
        if not compare_digest(token.encode(), self.server.token.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
        elif name in self.server.files:
            self._send_file(self.server.files[name], with_content)
        elif name == "":
            self._send_head(_TYPES[".html"], len(self.server.index))
            if with_content:
                self.wfile.write(self.server.index)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_file(self, path: Path, with_content: bool) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with os.fdopen(descriptor, "rb") as stream:
            told = os.fstat(descriptor)
            if not stat.S_ISREG(told.st_mode):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self._send_head(_TYPES.get(path.suffix, "application/octet-stream"), told.st_size)
            if with_content:
                shutil.copyfileobj(stream, self.wfile)

    def _send_head(self, content_type: str, length: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()


def _pages(folder: Path) -> list[tuple[str, Path]]:
    """The folders that have a page, with their name in the address: the folder itself, or those in it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give one that mtnet infer --page wrote to.")
    if (folder / PAGE).is_file():
        return [("", folder)]
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    found = [(path.name, path) for path in inner if (path / PAGE).is_file()]
    if not found:
        raise FileNotFoundError(
            f"There is no {PAGE} in {folder}; mtnet infer STUDY OUT --bundle NAME --page writes one."
        )
    # 2 before 10.
    return sorted(found, key=lambda entry: (len(entry[0]), entry[0]))


def _files(pages: list[tuple[str, Path]]) -> dict[str, Path]:
    """What is served, by what follows the random word in the address."""
    files: dict[str, Path] = {}
    for name, folder in pages:
        prefix = f"{quote(name, safe='')}/" if name else ""
        present = [n for n in (PAGE, *RESULT_FILES, *PLANE_FILES) if (folder / n).is_file()]
        files |= {f"{prefix}{file}": folder / file for file in present}
        files[prefix] = folder / PAGE
    return files


def _index(names: list[str]) -> str:
    """The page that leads to those of several studies."""
    links = "".join(f'<li><a href="{quote(name, safe="")}/">{escape(name)}</a></li>' for name in names)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; base-uri 'none'\">"
        f"<title>mtnet: {len(names)} studies</title></head><body><h1>{len(names)} studies</h1><ol>{links}</ol>"
        "<p>Research use only. Not a medical device.</p></body></html>"
    )
