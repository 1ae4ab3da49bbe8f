from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session", name="certificates")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, and certificates that they have signed themselves, of three parties."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("node", "sender", "stranger"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            cwd=folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    return folder
