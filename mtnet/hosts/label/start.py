"""Start MONAI Label offline on one bundle: its own ``monaibundle`` app, unchanged, or ours (``mtnet.hosts.label.app``).

Run it with the Python of the environment that ``make label-env`` makes: ``python -m mtnet.hosts.label.start --help``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtnet.bundle import Bundle, BundleError, find_bundle

STOCK = Path("monailabel") / "sample-apps" / "monaibundle"
"""Where MONAI Label's wheel puts its app below the data folder of its environment."""
APPS = ("stock", "mtnet")

_OURS = 'from mtnet.hosts.label.app import LabelApp\n\n__all__ = ["LabelApp"]\n'


def prepare(bundle_name: str, workspace: Path, app: str = "stock") -> Path:
    """Put an app and a copy of the bundle into ``workspace``, and return the bundle's copy.

    Training in MONAI Label replaces the copy's weights. A copy that is there already is kept, so that what was trained
    is used again; delete it to begin anew.

    Raises:
        BundleError: there is no such bundle, or its weights are missing or not its own: MONAI Label would leave it out
            and start all the same.
        FileNotFoundError: MONAI Label is not installed in this environment.
    """
    stock = Path(sysconfig.get_path("data")) / STOCK
    if not stock.is_dir():
        raise FileNotFoundError(
            f"{stock} is missing: this environment has no MONAI Label. Make it with: make label-env"
        )
    bundle = find_bundle(bundle_name)
    workspace.mkdir(parents=True, exist_ok=True)
    if app == "stock":
        shutil.copytree(stock, workspace, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        (workspace / "main.py").write_text(_OURS, encoding="utf-8")
    copy = workspace / "model" / bundle.resolve().name
    if not copy.is_dir():
        Bundle.read(bundle).check_weights()
        shutil.copytree(bundle, copy)
    Bundle.read(copy).check_weights()
    return copy


def command(
    copy: Path, workspace: Path, studies: str, host: str, port: int, conf: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """The command that starts the server, with what keeps it off the network; ``conf`` are further pairs for it."""
    name = copy.name
    settings = {
        "models": name,
        # Anything but MONAI's own hosting: else its index is asked for even where the bundle is at hand.
        "zoo_source": "local",
        # On by default, and downloaded.
        "sam2": "false",
        "epistemic_model": name,
        **dict(conf),
    }
    words = [word for key, value in settings.items() for word in ("--conf", key, value)]
    start = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(workspace), "--studies", studies]
    return [*start, "--host", host, "--port", str(port), *words]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Variables of the server; those that are set already stay.

    No tracking of experiments, which would write a database into the working folder. No scoring of every image at each
    start and after each training, which takes the machine for as long as there are images. The page of OHIF asks the
    archive through MONAI Label, which has its own names for the credentials.
    """
    ours = {"MONAI_LABEL_TRACKING_ENABLED": "false", "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    for theirs, name in (("USERNAME", "USER"), ("PASSWORD", "PASSWORD")):
        if f"MTNET_DICOMWEB_{name}" in given:
            ours[f"MONAI_LABEL_DICOMWEB_{theirs}"] = given[f"MTNET_DICOMWEB_{name}"]
    return {**ours, **given}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, and become the server.

    Raises:
        SystemExit: that cannot be; the reason is on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m mtnet.hosts.label.start", description=__doc__)
    parser.add_argument("--bundle", required=True, help="folder or name of the bundle")
    parser.add_argument("--app", choices=APPS, default="stock", help="MONAI Label's own app (default), or ours")
    parser.add_argument(
        "--studies",
        required=True,
        help="folder of images, to which labels are written too; for our app also an archive, http(s)://HOST/dicom-web",
    )
    parser.add_argument("--workspace", type=Path, help="folder for the app and its copy of the bundle")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="for the app")
    told = parser.parse_args(arguments)
    workspace = told.workspace or Path("out") / "label" / Path(told.bundle).resolve().name
    try:
        _check_studies(told.studies, told.app)
        copy = prepare(told.bundle, workspace, told.app)
    except (BundleError, FileNotFoundError, ValueError) as error:
        sys.exit(f"mtnet: {error}")
    words = command(copy, workspace.resolve(), told.studies, told.host, told.port, told.conf)
    os.execve(words[0], words, environment(os.environ))


def _check_studies(studies: str, app: str) -> None:
    if not studies.startswith(("http://", "https://")):
        if not Path(studies).is_dir():
            raise FileNotFoundError(f"--studies {studies}: no such folder.")
    elif app == "stock":
        raise ValueError(
            "--studies is an archive: MONAI Label's own app would download a program (dcmqi) and read series by a "
            "converter that does not check their geometry. Use --app mtnet."
        )


if __name__ == "__main__":
    main()
