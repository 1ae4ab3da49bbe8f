"""A DICOM node that has every instance on disk before it acknowledges it, beside DCMTK's ``storescp``.

``python -m benchmarks.receiving`` sends instances of 512 KB by ``storescu`` over several associations to both in turns,
and writes as much by threads that sync each file, which is what the disk allows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.measure import claim, compare, in_turns, tell, write_result
from benchmarks.tables import write_tables
from mtnet.hosts.node.database import DATABASE
from mtnet.hosts.node.keeper import remove_study
from mtnet.hosts.node.ledger import Ledger
from tests.builders import write_ct_series

BUNDLE = Path(__file__).parents[1] / "bundles" / "chest_ct_multitask"
LEAST_PER_S = 100.0
_START_S = 300.0

_CONFIG = """
state = "state"
quiet_s = 36000
[receiver]
port = 0
[health]
port = 0
[[route]]
name = "chest"
bundle = "{bundle}"
destination = "out"
[[destination]]
name = "out"
folder = "out"
"""


def draw(folder: Path, associations: int, count: int) -> list[list[Path]]:
    """Files of 512 x 512 values of 16 bits, a study an association."""
    return [
        list(write_ct_series(folder / str(n), shape=(512, 512, count), study=f"s{n}", series=f"s{n}").paths)
        for n in range(associations)
    ]


def send(port: int, title: str, files: Sequence[Sequence[Path]]) -> None:
    """Send every list over an association of its own, at the same time.

    Raises:
        RuntimeError: not everything was acknowledged.
    """
    commands = [["storescu", "-aec", title, "127.0.0.1", str(port), *map(str, each)] for each in files]
    running = [subprocess.Popen(c, env=_no_delay(), stdout=subprocess.DEVNULL) for c in commands]
    codes = [one.wait() for one in running]
    if any(codes):
        raise RuntimeError(f"{title} did not take everything.")


@contextmanager
def node(folder: Path) -> Iterator[int]:
    """A node with its models loaded; gives its port."""
    config = folder / "node.toml"
    config.write_text(_CONFIG.format(bundle=BUNDLE), encoding="utf-8")
    command = [sys.executable, "-m", "mtnet", "serve", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port, started = 0, time.monotonic()
        for line in process.stderr:
            told = json.loads(line) if line.startswith("{") else {"event": line}
            port = told.get("dicom_port", port)
            if told["event"] == "worker_ready":
                break
            if time.monotonic() - started > _START_S:
                raise RuntimeError("The node does not start.")
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """DCMTK's receiver, a process an association; gives its port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    command = ["storescp", "--fork", "-pdu", "131072", "-aet", "STORESCP", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, env=_no_delay(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def write_synced(folder: Path, files: Sequence[Sequence[Path]]) -> None:
    """Write as much, a thread an association, and sync each file."""

    def write(number: int, paths: Sequence[Path]) -> None:
        for index, path in enumerate(paths):
            with (folder / f"{number}-{index}").open("wb") as stream:
                stream.write(path.read_bytes())
                stream.flush()
                os.fsync(stream.fileno())

    threads = [threading.Thread(target=write, args=entry) for entry in enumerate(files)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def forget(state: Path) -> None:
    """Remove what the node has received."""
    if (state / DATABASE).is_file():
        ledger = Ledger(state)
        for (uid,) in ledger.rows("SELECT uid FROM study"):
            remove_study(state, ledger, str(uid))
        ledger.close()


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--count", type=int, default=50, help="instances an association")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured (default: the temporary folder)")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        place = Path(made)
        files = draw(place / "sent", options.associations, options.count)
        for name in ("node", "storescp", "disk"):
            (place / name).mkdir()
        with node(place / "node") as port, storescp(place / "storescp") as peer_port:

            def to_node() -> None:
                send(port, "MTNET", files)

            def to_peer() -> None:
                send(peer_port, "STORESCP", files)

            def to_disk() -> None:
                write_synced(place / "disk", files)

            seconds: dict[str, list[float]] = {"mtnet": [], "storescp": [], "synced files": []}
            for number in range(options.rounds + 1):
                for name, once in zip(seconds, (to_node, to_peer, to_disk), strict=True):
                    taken = in_turns({name: once}, 1, warm_up=False)[name]["seconds"]
                    if number:
                        seconds[name] += taken
                forget(place / "node" / "state")
                for name in ("storescp", "disk"):
                    shutil.rmtree(place / name)
                    (place / name).mkdir()
    total = options.associations * options.count
    rates = {name: [total / s for s in each] for name, each in seconds.items()}
    ratio = compare(seconds["mtnet"], seconds["storescp"])
    contenders = {
        name: {"seconds": seconds[name], "facts": {"instances_a_second": sorted(rates[name])[len(rates[name]) // 2]}}
        for name in seconds
    }
    contenders["mtnet"]["facts"] |= {  # type: ignore[operator]
        "time_to_storescp": ratio["ratio_of_medians"],
        "lowest_round": ratio["lowest_round"],
        "highest_round": ratio["highest_round"],
    }
    median = sorted(rates["mtnet"])[len(rates["mtnet"]) // 2]
    says = "instances of 512 KB on disk before they are acknowledged"
    claims = [claim(says, median, LEAST_PER_S, unit="/s", at_least=True, rounds=rates["mtnet"])]
    setting = {"associations": options.associations, "instances": total, "bytes each": 512 * 512 * 2}
    write_result("receiving", setting, contenders, claims, machine)
    write_tables()
    print(tell(claims))


def _no_delay() -> dict[str, str]:
    return {**os.environ, "TCP_NODELAY": "1"}


if __name__ == "__main__":
    main()
