from __future__ import annotations

from pathlib import Path

import pytest

from mtnet.hosts.node.config import ConfigError, Retry, Sender, read_config

GOOD = """
state = "queue"
[[route]]
name = "lungs"
bundle = "chest_ct_multitask"
modality = "CT"
destination = ["pacs", "folder"]
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = 4242
ae_title = "ORTHANC"
[[destination]]
name = "folder"
folder = "out"
"""


def read(tmp_path: Path, text: str):
    (tmp_path / "node.toml").write_text(text, encoding="utf-8")
    return read_config(tmp_path / "node.toml")


def test_what_is_left_out_has_a_careful_default(tmp_path):
    config = read(tmp_path, GOOD)
    assert (config.receiver.host, config.health.host) == ("127.0.0.1", "127.0.0.1")
    assert config.state == tmp_path / "queue"
    assert config.route[0].modality == ("CT",)
    assert config.destination[1].folder == tmp_path / "out"


def test_the_example_of_the_docs_can_be_read(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "node.md").read_text(encoding="utf-8")
    config = read(tmp_path, page.split("```toml\n")[1].split("```")[0])
    assert {one.name for one in config.destination} == {"pacs", "copies"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("state", "stat", "stat is not known"),
        ('state = "queue"', "", "state is missing"),
        ('state = "queue"', "state = 3", "state is 3; expected a path"),
        ('"pacs", "folder"', '"paks"', "goes to 'paks', which is no [[destination]]"),
        ('destination = ["pacs", "folder"]', "destination = []", "route 1: destination is empty"),
        ("port = 4242", "port = 424242", "destination 1: port is 424242"),
        ("port = 4242", 'port = "4242"', "destination 1: port is '4242'; expected int"),
        ("port = 4242", "port = true", "expected int"),
        ('folder = "out"', "", "destination 2: one of host, url and folder is needed, and none is given"),
        ('folder = "out"', 'folder = "out"\nurl = "http://a/b"', "and url and folder is given"),
        ('folder = "out"', 'url = "http://me:secret@a/b"', "url is no http or https URL without credentials"),
        ('ae_title = "ORTHANC"', 'ae_title = "A TITLE THAT IS TOO LONG"', "expected 1 to 16 ASCII characters"),
        ('name = "lungs"', 'name = "../lungs"', "route 1: name is '../lungs'; expected lower-case letters"),
        ('name = "folder"', 'name = "pacs"', "two [[destination]] have one name"),
        ('modality = "CT"', "modality = 5", "modality is 5; expected one or more words"),
        ('modality = "CT"', "strict = true\nrepair = true", "strict goes with neither repair nor allow_outside"),
        ('modality = "CT"', 'seg = "fractional"', "seg is 'fractional'"),
        ("[[route]]", '[receiver]\nhost = "0.0.0.0"\n[[route]]', "list who may send as [[sender]]"),
        ("[[route]]", "[receiver]\nmax_pdu_bytes = 12\n[[route]]", "receiver: max_pdu_bytes is 12"),
        ("[[route]]", '[receiver.tls]\ncert = "no.pem"\n[[route]]', "receiver: tls: cert and key come together"),
        ("[[route]]", '[[sender]]\nae_title = "CT"\naddress = "here"\n[[route]]', "sender 1: address is 'here'"),
        ("[[route]]", "[retry]\nfactor = 0.5\n[[route]]", "retry: factor is 0.5"),
        ('state = "queue"', 'state = "queue"\nquiet_s = 0', "quiet_s is 0.0; expected more than 0"),
        ('state = "queue"', "state = ", "is no valid TOML"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(tmp_path, old, new, said):
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert said in str(raised.value)
    assert "node.toml" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_sender_is_known_by_its_network():
    assert Sender("CT1", "10.1.2.0/24").holds("10.1.2.77")
    assert not Sender("CT1", "10.1.2.0/24").holds("10.1.3.77")


def test_pauses_grow_to_a_limit():
    retry = Retry(first_s=10, factor=3, most_s=600)
    assert [retry.pause_s(n) for n in (1, 2, 3, 4, 5, 500)] == [10, 30, 90, 270, 600, 600]
