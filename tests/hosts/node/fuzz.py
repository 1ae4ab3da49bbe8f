"""What nobody should send to a DICOM port: associations, PDUs and objects that are cut, flipped, oversized or lie."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

_APPLICATION = b"1.2.840.10008.3.1.1.1"
_PATHS = (b"../../../../../../tmp/fuzzed", b"/etc/passwd", b"1.2.3/../../x", b"C:\\x", b"1.2\x00.3", b"." * 64, b"")
_SILENT_S = 5.0


def item(kind: int, content: bytes) -> bytes:
    """An item of an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    """A PDU (PS3.8 9.3.1)."""
    return struct.pack(">BBL", kind, 0, len(content)) + content


def request(called: bytes = b"MTNET", contexts: int = 1) -> bytes:
    """An A-ASSOCIATE-RQ that is right."""
    items = item(0x10, _APPLICATION)
    for number in range(contexts):
        syntaxes = item(0x30, CTImageStorage.encode()) + item(0x40, ExplicitVRLittleEndian.encode())
        items += item(0x20, struct.pack(">BBBB", 2 * number + 1, 0, 0, 0) + syntaxes)
    items += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4"))
    return pdu(0x01, struct.pack(">HH", 1, 0) + called.ljust(16) + b"FUZZ".ljust(16) + bytes(32) + items)


def data(content: bytes, header: int, context: int = 1) -> bytes:
    """A P-DATA-TF PDU with one fragment."""
    return pdu(0x04, struct.pack(">LBB", len(content) + 2, context, header) + content)


def store(sop_uid: bytes, sop_class: bytes = CTImageStorage.encode()) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1)."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\x00" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    short = struct.Struct("<H").pack
    elements = element(0x0002, sop_class) + element(0x0100, short(1)) + element(0x0110, short(1))
    elements += element(0x0700, short(0)) + element(0x0800, short(1)) + element(0x1000, sop_uid)
    return element(0x0000, struct.pack("<L", len(elements))) + elements


def flipped(content: bytes, chance: random.Random, most: int = 8) -> bytes:
    """Some bytes are other ones."""
    bad = bytearray(content)
    for _ in range(chance.randint(1, most)):
        if bad:
            bad[chance.randrange(len(bad))] = chance.randrange(256)
    return bytes(bad)


def attack(port: int, seed: int, dataset: bytes, sop_uid: bytes) -> None:
    """One attack, the same for the same seed.

    Args:
        port: of the node.
        seed: which one.
        dataset: of a CT object, in explicit little endian, to spoil.
        sop_uid: its SOP instance UID.
    """
    chance = random.Random(seed)
    kinds: tuple[Callable[[random.Random, bytes, bytes], list[bytes]], ...] = (
        _no_association, _no_pdu, _no_message, _no_object,
    )  # fmt: skip
    sent = kinds[seed % len(kinds)](chance, dataset, sop_uid)
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_SILENT_S) as peer:
        for number, part in enumerate(sent):
            peer.sendall(part)
            if number == 0 and len(sent) > 1:
                peer.recv(65536)
        if chance.random() < 0.8:
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass


def _no_association(chance: random.Random, dataset: bytes, sop_uid: bytes) -> list[bytes]:
    good = request(contexts=chance.choice((1, 1, 20, 128)))
    bad = [
        good[: chance.randrange(len(good))],
        flipped(good, chance),
        good[:2] + struct.pack(">L", chance.choice((0, 1, 2**31, 2**32 - 1))) + good[6:],
        chance.randbytes(chance.randrange(1, 4000)),
        request(b"SOMEBODY"),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        good + good,
        pdu(0x01, chance.randbytes(300)),
    ]
    return [chance.choice(bad)]


def _no_pdu(chance: random.Random, dataset: bytes, sop_uid: bytes) -> list[bytes]:
    good = data(store(sop_uid), 3)
    bad = [
        flipped(good, chance),
        good[: chance.randrange(len(good))],
        pdu(chance.randrange(256), chance.randbytes(chance.randrange(200))),
        struct.pack(">BBL", 4, 0, 2**32 - 1) + chance.randbytes(2000),
        pdu(0x04, struct.pack(">LBB", 2**32 - 1, 1, 3) + store(sop_uid)),
        pdu(0x04, struct.pack(">LBB", 0, 1, 3)),
        pdu(0x04, b""),
        good + pdu(0x07, bytes(4)),
        request(),
    ]
    return [request(), chance.choice(bad)]


def _no_message(chance: random.Random, dataset: bytes, sop_uid: bytes) -> list[bytes]:
    command = store(sop_uid)
    bad = [
        data(flipped(command, chance), 3) + data(dataset, 2),
        data(command, 3, context=chance.randrange(256)) + data(dataset, 2),
        data(dataset, 2),
        data(command, 3) * 200,
        data(command, 1) * 400,
        data(command[: chance.randrange(len(command))], 3) + data(dataset, 2),
        data(command, 3) + data(dataset, 0) * 20,
        data(chance.randbytes(200), 3),
        data(store(sop_uid, b"1.2.840.10008.5.1.4.1.2.2.1"), 3) + data(dataset, 2),
    ]
    return [request(), chance.choice(bad)]


def _no_object(chance: random.Random, dataset: bytes, sop_uid: bytes) -> list[bytes]:
    path = chance.choice(_PATHS)
    lengths = bytearray(dataset)
    lengths[chance.randrange(len(lengths) // 4)] = 0xFF
    lie = {
        "command": (store(path), dataset),
        "both": (store(path), dataset.replace(sop_uid, path.ljust(len(sop_uid), b"\x00")[: len(sop_uid)])),
        "cut": (store(sop_uid), dataset[: chance.randrange(len(dataset))]),
        "flipped": (store(sop_uid), flipped(dataset[:1000], chance) + dataset[1000:]),
        "lengths": (store(sop_uid), bytes(lengths)),
        "noise": (store(sop_uid), chance.randbytes(5000)),
        "nothing": (store(sop_uid), b""),
        "other": (store(b"1.2.3.4.5"), dataset),
    }
    command, content = lie[chance.choice(sorted(lie))]
    return [request(), data(command, 3) + data(content, 2)]
