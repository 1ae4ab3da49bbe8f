"""The HTTP session under DICOMweb: who asks, how long it waits, and what a server says when it does not store."""

from __future__ import annotations

import os
from typing import Any

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from mtnet.hosts.dicomweb import DicomWebError

# Failure Reason (0008,1197) of PS3.4 GG.4.1 and PS3.18 I.2, by its value or the range that it begins.
_REASONS = {
    0x0110: "it failed while processing it",
    0x0122: "it does not take objects of this SOP class",
    0x0124: "this user may not store",
    0xC122: "it does not take this transfer syntax",
}


class _Token(AuthBase):  # type: ignore[misc]  # requests is not typed
    """``Authorization: Bearer``."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(AuthBase):  # type: ignore[misc]  # requests is not typed
    """No credentials: without this ``requests`` looks into ``~/.netrc`` for some."""

    def __call__(self, request: Any) -> Any:
        return request


def credentials() -> AuthBase:
    """Those of the environment.

    Raises:
        ValueError: there is a user without a password or the reverse, or both ways are set.
    """
    user, password = os.environ.get("MTNET_DICOMWEB_USER"), os.environ.get("MTNET_DICOMWEB_PASSWORD")
    token = os.environ.get("MTNET_DICOMWEB_TOKEN")
    if token and (user or password):
        raise ValueError("MTNET_DICOMWEB_TOKEN and MTNET_DICOMWEB_USER or _PASSWORD are all set; set one or the other.")
    if bool(user) != bool(password):
        raise ValueError("Only one of MTNET_DICOMWEB_USER and MTNET_DICOMWEB_PASSWORD is set; set both or none.")
    if token:
        return _Token(token)
    return HTTPBasicAuth(user, password) if user and password else _Nobody()


class Session(requests.Session):  # type: ignore[misc]  # requests is not typed
    """A session with the environment's credentials that never waits without end.

    Args:
        timeout_s: seconds until the server is reached, and between two pieces of its answer.

    Raises:
        ValueError: the environment holds half of the credentials.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.auth = credentials()
        self.is_named = not isinstance(self.auth, _Nobody)
        self.headers["Accept"] = "application/dicom+json"
        self._timeout_s = timeout_s
        self.hooks = {"response": [_stored]}

    def request(self, *args: Any, **options: Any) -> Any:
        """As in ``requests``, with this session's limit on waiting."""
        return super().request(*args, **{**options, "timeout": self._timeout_s})


def _stored(response: Any, **_: Any) -> None:
    """Raise where a server did not store all of what was posted: it may say so with a 202, which is no HTTP error."""
    if response.request.method == "POST" and response.status_code in (202, 409):
        raise DicomWebError(f"it did not store it ({_why(response)}).")


def _why(response: Any) -> str:
    try:
        answer = response.json()
        failed = (answer[0] if isinstance(answer, list) else answer)["00081198"]["Value"]
        codes = sorted({int(item["00081197"]["Value"][0]) for item in failed})
    except (ValueError, LookupError, TypeError):
        return f"HTTP {response.status_code}"
    return "; ".join(_reason(code) for code in codes)


def _reason(code: int) -> str:
    ranges = {0xA7: "it is out of resources", 0xA9: "the object does not match its SOP class"}
    told = _REASONS.get(code) or ranges.get(code >> 8) or ("it cannot understand it" if code >> 12 == 0xC else "")
    return f"{told}, failure reason {code:04X}H".removeprefix(", ")
