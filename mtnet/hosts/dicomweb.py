"""A DICOMweb server as a source of studies and a place for results (PS3.18: QIDO-RS, WADO-RS, STOW-RS)."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCHEMES = ("dicomweb+http://", "dicomweb+https://")
"""How a study on a server is told from a path."""

_LOG = logging.getLogger(__name__)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_AS_STORED = (("application/dicom", "*"),)


class DicomWebError(OSError):
    """A server did not do what it was asked; says which server, what it was asked, and what it answered."""


def check_uid(text: str) -> str:
    """The UID itself, before it becomes part of a path or URL.

    Raises:
        ValueError: it is not digits parted by single dots, at most 64 characters (PS3.5 9.1).
    """
    if len(text) > 64 or not _UID.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no DICOM UID; expected digits and dots, at most 64 characters.")
    return text


def parse_study_url(text: str) -> tuple[DicomWeb, str, str | None]:
    """Server, study and series of ``dicomweb+http://HOST/dicom-web/studies/UID[/series/UID]``.

    Raises:
        ValueError: it is no such URL, a UID in it is none, or as ``DicomWeb``.
    """
    root, found, rest = text.partition("/studies/")
    parts = rest.rstrip("/").split("/")
    if (
        not text.startswith(SCHEMES)
        or not found
        or len(parts) not in (1, 3)
        or (len(parts) == 3 and parts[1] != "series")
    ):
        raise ValueError(
            "This is no study on a DICOMweb server; expected dicomweb+http://HOST/dicom-web/studies/UID, "
            "and /series/UID behind it where one series is meant."
        )
    study = check_uid(parts[0])
    series = check_uid(parts[2]) if len(parts) == 3 else None
    return DicomWeb(root.removeprefix("dicomweb+")), study, series


class DicomWeb:
    """One DICOMweb server. Credentials come from the environment only: ``MTNET_DICOMWEB_USER`` with
    ``MTNET_DICOMWEB_PASSWORD``, or ``MTNET_DICOMWEB_TOKEN``; no message holds them. For one thread at a time.

    Args:
        url: the root of its services, ``http(s)://host[:port]/dicom-web``.
        timeout_s: seconds that it may take to be reached, and then be silent.

    Raises:
        ValueError: the URL is none, holds credentials or a query, the environment holds half of the credentials, or
            the extra ``dicomweb`` is missing.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url.rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("This is no DICOMweb server; expected http(s)://HOST[:PORT]/PATH, such as /dicom-web.")
        if "@" in parts.netloc:
            raise ValueError(
                "The URL of a DICOMweb server must not hold credentials: set MTNET_DICOMWEB_USER and "
                "MTNET_DICOMWEB_PASSWORD, or MTNET_DICOMWEB_TOKEN."
            )
        try:
            from dicomweb_client import DICOMwebClient

            from mtnet.hosts.dicomweb_session import Session
        except ImportError as error:
            raise ValueError(f"DICOMweb needs an extra ({error.name}): pip install 'mtnet[dicomweb]'.") from error
        self.url = parts.geturl()
        self.timeout_s = timeout_s
        session = Session(timeout_s)
        if parts.scheme == "http" and session.is_named and parts.hostname not in _LOOPBACK:
            _LOG.warning("The credentials for %s go over the network as they are; use https.", parts.hostname)
        # What it repeats by itself it posts without its body, so it repeats nothing.
        self._client = DICOMwebClient(self.url, session=session, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)

    def find_studies(self, query: Mapping[str, str]) -> list[str]:
        """UIDs of the studies that match, such as ``{"ModalitiesInStudy": "CT", "StudyDate": "20260101-"}``.

        Raises:
            DicomWebError: the server cannot be reached or refuses the query.
        """
        search = self._client.search_for_studies
        return self._pages("the list of studies", _STUDY, search, search_filters=dict(query))

    def find_series(self, study_uid: str, query: Mapping[str, str] | None = None) -> list[str]:
        """UIDs of the series of a study, or of those that match, such as ``{"Modality": "CT"}``.

        Raises:
            DicomWebError: the server cannot be reached, refuses, or, where all are asked for, holds no such study.
        """
        search, filters = self._client.search_for_series, dict(query or {})
        found = self._pages("the series of a study", _SERIES, search, check_uid(study_uid), search_filters=filters)
        if not found and not query:
            raise DicomWebError(f"{self.url} holds no study {study_uid}.")
        return found

    def find_instances(self, study_uid: str, series_uid: str | None = None) -> list[str]:
        """UIDs of the instances of a study, or of one series of it.

        Raises:
            DicomWebError: the server cannot be reached, refuses, or holds no such study or series.
        """
        where = (check_uid(study_uid),) if series_uid is None else (check_uid(study_uid), check_uid(series_uid))
        found = self._pages("a list of instances", _INSTANCE, self._client.search_for_instances, *where)
        if not found:
            held = f"study {study_uid}" if series_uid is None else f"series {series_uid} in study {study_uid}"
            raise DicomWebError(f"{self.url} holds no {held}.")
        return found

    def fetch_series(self, study_uid: str, series_uid: str, folder: Path) -> list[Path]:
        """Fetch the instances of a series, as they are stored, into a folder that does not exist or is empty.

        Returns:
            one file an instance, named by its UID. The folder appears when all are there.

        Raises:
            DicomWebError: the server cannot be reached, refuses, or leaves an instance out.
            FileExistsError: the folder holds something.
        """
        return self._fetch(study_uid, [series_uid], Path(folder))

    def fetch_study(self, study_uid: str, folder: Path) -> list[Path]:
        """As ``fetch_series``, every series of the study into one folder."""
        return self._fetch(study_uid, self.find_series(study_uid), Path(folder))

    @contextmanager
    def fetched(self, study_uid: str, series_uid: str | None = None) -> Iterator[Path]:
        """A temporary folder with the study, or with one series of it; raises as ``fetch_study``."""
        with tempfile.TemporaryDirectory(prefix="mtnet-") as temporary:
            folder = Path(temporary) / "study"
            if series_uid is None:
                self.fetch_study(study_uid, folder)
            else:
                self.fetch_series(study_uid, series_uid, folder)
            yield folder

    def store(self, paths: Sequence[Path]) -> None:
        """Store DICOM files, one after the other; the server has all of them when this returns.

        Raises:
            DicomWebError: one is refused, with its file name and the server's reason; those before it are stored.
            ValueError: one is no DICOM file.
        """
        import pydicom

        for path in paths:
            try:
                dataset = pydicom.dcmread(path)
            except pydicom.errors.InvalidDicomError:
                raise ValueError(f"{Path(path).name} is no DICOM file; it cannot be stored.") from None
            with self._asked(f"to store {Path(path).name}"):
                self._client.store_instances([dataset])

    def _fetch(self, study_uid: str, series_uids: Iterable[str], folder: Path) -> list[Path]:
        check_uid(study_uid)
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; a study is fetched into a folder of its own.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = folder.parent / f".{folder.name}.tmp-{secrets.token_hex(4)}"
        work.mkdir()
        try:
            names = [name for uid in series_uids for name in self._fetch_into(work, study_uid, check_uid(uid))]
            work.replace(folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return [folder / name for name in sorted(names)]

    def _fetch_into(self, folder: Path, study_uid: str, series_uid: str) -> list[str]:
        missing = set(self.find_instances(study_uid, series_uid))
        count = len(missing)
        names: list[str] = []
        with self._asked(f"for series {series_uid}"):
            for dataset in self._client.iter_series(study_uid, series_uid, media_types=_AS_STORED):
                uid = check_uid(str(dataset.get("SOPInstanceUID", "")))
                names.append(f"{uid}.dcm")
                dataset.save_as(folder / names[-1])
                missing.discard(uid)
        if missing:
            raise DicomWebError(f"{self.url} left out {len(missing)} of the {count} instances of series {series_uid}.")
        return names

    def _pages(self, what: str, tag: str, search: Callable[..., Any], *where: str, **how: Any) -> list[str]:
        """The values of ``tag`` on every page.

        No limit is asked for: Orthanc 1.10 finds nothing behind the first page of a limited search by modality.
        """
        found: dict[str, None] = {}
        offset = 0
        with self._asked(f"for {what}"):
            while page := search(*where, offset=offset or None, **how):
                before = len(found)
                found.update(dict.fromkeys(check_uid(str(one[tag]["Value"][0])) for one in page))
                if len(found) == before:
                    break
                offset += len(page)
        return list(found)

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Tell of a failure by server, request and answer; what libraries say of it may quote the query."""
        import requests
        from pydicom.errors import InvalidDicomError

        try:
            yield
        except DicomWebError as error:
            raise DicomWebError(f"{self.url} was asked {what}: {error}") from None
        except requests.HTTPError as error:
            raise DicomWebError(f"{self.url} was asked {what} and answered {_status(error.response)}") from None
        except requests.exceptions.SSLError:
            reason = "its certificate is not trusted (REQUESTS_CA_BUNDLE names a file with yours)"
            raise DicomWebError(f"{self.url} was asked {what}: {reason}.") from None
        except requests.Timeout:
            raise DicomWebError(f"{self.url} was asked {what} and was silent for {self.timeout_s:g} s.") from None
        except requests.RequestException as error:
            reason = "it cannot be reached" if isinstance(error, requests.ConnectionError) else "its answer broke off"
            raise DicomWebError(f"{self.url} was asked {what}: {reason} ({type(error).__name__}).") from None
        except (InvalidDicomError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
            reason = f"its answer is not as DICOMweb has it ({type(error).__name__})"
            raise DicomWebError(f"{self.url} was asked {what}: {reason}.") from None


def _status(response: Any) -> str:
    hint = {
        401: " Set MTNET_DICOMWEB_USER and MTNET_DICOMWEB_PASSWORD, or MTNET_DICOMWEB_TOKEN.",
        403: " The user of MTNET_DICOMWEB_USER or _TOKEN may not do this.",
        404: " It does not hold it, or its services are at another path.",
    }.get(response.status_code, "")
    return f"HTTP {response.status_code}.{hint}"
