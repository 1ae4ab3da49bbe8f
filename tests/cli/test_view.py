from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mtnet.cli.main import main
from mtnet.cli.page_server import PageServer
from tests.planes import save, spot

PAGE = "<!DOCTYPE html><title>page</title>"


def results(folder: Path, text: str = PAGE) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(text)
    (folder / "findings.json").write_text("{}")
    (folder / "notes.txt").write_text("not a result")
    return folder


@contextmanager
def served(folder: Path) -> Iterator[PageServer]:
    with PageServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def asked(
    server: PageServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and content of one request; the path goes as it is."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_page_and_the_results_beside_it_are_served_under_a_random_word(tmp_path: Path) -> None:
    with served(results(tmp_path / "out")) as server:
        word = f"/{server.token}"
        assert server.url.startswith("http://127.0.0.1:") and len(server.token) >= 24
        for path in ("/", "/report.html"):
            status, headers, content = asked(server, word + path)
            assert status == 200 and content.decode() == PAGE
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert asked(server, f"{word}/findings.json")[2] == b"{}"
        status, headers, content = asked(server, f"{word}/", "HEAD")
        assert (status, headers["Content-Length"], content) == (200, str(len(PAGE)), b"")
    with served(tmp_path / "out") as other:
        assert f"/{other.token}" != word


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with served(results(tmp_path / "out")) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:1", "", "127.0.0.1"])
def test_a_host_that_is_not_this_server_gets_nothing(host: str, tmp_path: Path) -> None:
    """What a page of a stranger reaches when its own name is made to point at 127.0.0.1."""
    with served(results(tmp_path / "out")) as server:
        status, _, content = asked(server, f"/{server.token}/", Host=host)
        assert status == 421 and b"page" not in content
        port = server.server_address[1]
        assert asked(server, f"/{server.token}/", Host=f"localhost:{port}")[0] == 200


def test_without_the_word_or_with_a_part_of_it_there_is_nothing(tmp_path: Path) -> None:
    with served(results(tmp_path / "out")) as server:
        for path in ("/", "/report.html", "/findings.json", f"/{server.token[:-1]}/", f"/{server.token}x/", "//", "*"):
            status, _, content = asked(server, path)
            assert status == 404 and server.token.encode() not in content and b"{}" not in content


def test_nothing_but_results_is_reached(tmp_path: Path) -> None:
    folder = results(tmp_path / "out")
    (tmp_path / "secret.json").write_text("secret")
    (folder / "overlay.png").symlink_to(tmp_path / "secret.json")
    (folder / "inner").mkdir()
    (folder / "inner" / "report.html").write_text("inner")
    with served(folder) as server:
        for path in (
            "notes.txt", "overlay.png", "inner/", "inner/report.html", "../secret.json", "..%2fsecret.json",
            "%2e%2e/secret.json", "/etc/passwd", "//etc/passwd", f"{tmp_path}/secret.json", "report.html/",
            "./report.html", "report.html%00.png", "..\\secret.json", "?x", "#",
        ):  # fmt: skip
            status, _, content = asked(server, f"/{server.token}/{path}")
            assert (status == 404 or content.decode() == PAGE) and b"secret" not in content, path
            if not path.startswith(("?", "#")):
                assert status == 404, path


def test_a_file_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = results(tmp_path / "out")
    (tmp_path / "secret.json").write_text("secret")
    with served(folder) as server:
        (folder / "findings.json").unlink()
        (folder / "findings.json").symlink_to(tmp_path / "secret.json")
        status, _, content = asked(server, f"/{server.token}/findings.json")
        assert status == 404 and b"secret" not in content


def test_only_reading_is_answered(tmp_path: Path) -> None:
    with served(results(tmp_path / "out")) as server:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert asked(server, f"/{server.token}/report.html", method)[0] == 501
    assert (tmp_path / "out" / "report.html").read_text() == PAGE


def test_several_studies_get_a_list_that_leads_to_their_pages(tmp_path: Path) -> None:
    for name in ("1", "2", "10", "a <b>"):
        results(tmp_path / "out" / name, f"page {name}")
    (tmp_path / "out" / "empty").mkdir()
    with served(tmp_path / "out") as server:
        status, _, content = asked(server, f"/{server.token}/")
        text = content.decode()
        assert status == 200 and "4 studies" in text and "<b>" not in text and "empty" not in text
        assert text.index('href="1/"') < text.index('href="2/"') < text.index('href="10/"')
        assert asked(server, f"/{server.token}/10/")[2] == b"page 10"
        assert asked(server, f"/{server.token}/a%20%3Cb%3E/report.html")[2] == b"page a <b>"
        assert asked(server, f"/{server.token}/2/findings.json")[2] == b"{}"
        assert asked(server, f"/{server.token}/empty/")[0] == 404


def test_without_a_page_it_says_how_one_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path)]) == 1
    assert "--page writes one" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "missing")]) == 1
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_tells_the_address_and_ends_well_on_ctrl_c(tmp_path: Path) -> None:
    results(tmp_path / "out")
    # A program started in the background inherits that SIGINT is ignored.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    run = "import sys; from mtnet.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", hearing + run, "view", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            port, word = address.removeprefix("http://127.0.0.1:").split("/", 1)
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            connection.request("GET", f"/{word}")
            assert connection.getresponse().read().decode() == PAGE
            connection.close()
            os.kill(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=60)
            assert process.returncode == 0
            assert word.strip("/") not in told, "requests are not logged"
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_a_page_from_the_address_draws_and_asks_for_nothing_more(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from mtnet.study_folder import WriteOptions, answer_studies
    from tests.planes import spot_predictor
    from tests.results.page.opened import Opened, browser

    path = save(tmp_path / "a.png", spot((102, 67), (30, 12), (54, 31)))
    list(answer_studies(spot_predictor(), path, tmp_path / "out", write=WriteOptions(page=True)))
    with (
        served(tmp_path / "out") as server,
        sync_playwright() as playwright,
        browser(playwright) as running,
        Opened(running, server.url) as opened,
    ):
        assert opened.told("ready") == "yes" and np.ptp(opened.stage()) > 150
        assert [url for url in opened.requests if url.startswith("http")] == [server.url]
        opened.check_alone()
