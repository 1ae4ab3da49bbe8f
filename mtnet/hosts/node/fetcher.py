"""Studies that are fetched from DICOMweb servers, and taken as if they had been sent."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from mtnet.hosts.dicomweb import DicomWeb, DicomWebError
from mtnet.hosts.node.config import NodeConfig, Source
from mtnet.hosts.node.intake import Intake
from mtnet.hosts.node.ledger import Ledger
from mtnet.hosts.node.lines import Lines, Pseudonyms, kind_of, without_uids
from mtnet.hosts.node.objects import BrokenObjectError, read_facts, received

_FETCHED = "fetched"


class Fetcher:
    """Asks each source again and again, one thread a source. A study is fetched once; what failed, the next time again.

    Args:
        config: of the node.
        ledger: knows what was fetched.
        intake: keeps the objects.
        lines: where it is told.
        pseudonyms: of studies.
    """

    def __init__(
        self, config: NodeConfig, ledger: Ledger, intake: Intake, lines: Lines, pseudonyms: Pseudonyms
    ) -> None:
        self._ledger, self._intake, self._lines, self._pseudonyms = ledger, intake, lines, pseudonyms
        self._folder = config.state / _FETCHED
        shutil.rmtree(self._folder, ignore_errors=True)
        self._stop = threading.Event()
        self._busy: dict[int, str] = {}
        self._threads = [
            threading.Thread(target=self._ask, args=(number, one), name=f"from {one.url}", daemon=True)
            for number, one in enumerate(config.source)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float) -> None:
        """Fetch nothing more; a study that is not whole by then is fetched again later."""
        self._stop.set()
        for thread in self._threads:
            thread.join(within_s)

    def busy_studies(self) -> set[str]:
        """Studies that are being taken at this moment."""
        return set(self._busy.values())

    def _ask(self, number: int, source: Source) -> None:
        while not self._stop.is_set():
            try:
                server = DicomWeb(source.url, timeout_s=source.timeout_s)
                for uid in server.find_studies(source.query):
                    if self._stop.is_set():
                        return
                    if not self._ledger.was_fetched(uid):
                        self._fetch(number, server, uid)
            except Exception as error:
                self._lines.tell("fetching_failed", source=number + 1, error=_told(error))
            self._stop.wait(source.every_s)

    def _fetch(self, number: int, server: DicomWeb, study_uid: str) -> None:
        place = self._folder / str(number)
        study = self._pseudonyms.of(study_uid)
        self._busy[number] = study_uid
        try:
            kept = sum(self._keep(path) for path in server.fetch_study(study_uid, place))
            self._ledger.fetched(study_uid)
            self._lines.tell("fetched", study=study, objects=kept)
        except Exception as error:
            self._lines.tell("fetching_failed", source=number + 1, study=study, error=_told(error))
        finally:
            self._busy.pop(number, None)
            shutil.rmtree(place, ignore_errors=True)

    def _keep(self, path: Path) -> bool:
        data = memoryview(path.read_bytes())
        try:
            facts = read_facts(b"", data)
        except BrokenObjectError as error:
            self._lines.tell("object_refused", reason=str(error))
            return False
        return self._intake.keep(received(facts, b"", data), (data,)).outcome != "too_large"


def _told(error: Exception) -> str:
    return without_uids(str(error)) if isinstance(error, DicomWebError) else kind_of(error)
