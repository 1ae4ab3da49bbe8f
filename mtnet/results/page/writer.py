"""``report.html``: one study to look at, in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from mtnet.io.atomic import atomic_path
from mtnet.results.notice import full_notice
from mtnet.results.page.frames import PageFrames
from mtnet.results.page.lesion_table import lesion_table
from mtnet.results.page.scene import Scene, volume_scene
from mtnet.results.page.text import details, headline, image_answers, notices
from mtnet.structures import Findings, Volume

MOST_BYTES = 25_000_000
_VOXELS = 12_000_000
_LEAST_VOXELS = 100_000


def write_page(
    findings: Findings,
    path: Path,
    *,
    volume: Volume | None = None,
    frames: PageFrames | None = None,
    may_show_text: bool = False,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Write the page, which a browser opens from the file system; it asks for nothing from anywhere.

    It holds the volume in 8 bits, coarsened so that the file stays below ``most_bytes``, or the frames; masks and
    boxes; tables of lesions, image classes and measurements with their units; what was noticed about the input; the
    model, its weights' SHA-256 and licence. It holds UIDs, but no names, dates or names of files. Its Content Security
    Policy lets no script run but its own two, by their hashes, and nothing be loaded or sent.

    Args:
        findings: what to show; all text of it is escaped.
        path: the file to make; its folder must exist.
        volume: the image on the grid of the findings.
        frames: in its place, of an image or clip, the frames that were kept.
        may_show_text: whether the pixels may hold text that names the patient, which the page then says.
        most_bytes: of the file.

    Raises:
        ValueError: there is neither or both of image and frames, the volume is on another grid, or the page cannot be
            made so small.
    """
    if (volume is None) == (frames is None):
        raise ValueError("A page shows either a volume or frames; give one of them.")
    voxels = _VOXELS
    while True:
        scene = volume_scene(findings, volume, voxels) if volume is not None else _framed(frames, findings)
        page = _page(findings, scene, may_show_text).encode("utf-8")
        if len(page) < most_bytes:
            break
        voxels //= 2
        if frames is not None or voxels < _LEAST_VOXELS:
            raise ValueError(f"{Path(path).name} would take {len(page)} bytes; expected less than {most_bytes}.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)


def _framed(frames: PageFrames | None, findings: Findings) -> Scene:
    assert frames is not None
    return frames.scene(findings)


def _page(findings: Findings, scene: Scene, may_show_text: bool) -> str:
    from mtnet import __version__

    volume = scene.data["kind"] == "volume"
    style = _asset("page.css")
    own = _asset("marks.js") + _asset("page.js")
    scripts = [_asset("niivue.js"), own] if volume else [own]
    model = findings.model
    several = findings.geometry.shape[2] > 1
    found = (
        f'<section class="card" aria-labelledby="lesions-title"><h2 id="lesions-title">Lesions</h2>'
        f"{lesion_table(findings, scene.places)}</section>{image_answers(findings)}"
    )
    return Template(_asset("page.html")).substitute(
        policy=escape(_policy(scripts, style)),
        title=escape(f"{headline(findings)}: {model.name} (research use only)"),
        style=style,
        maker=escape(__version__),
        headline=escape(headline(findings)),
        sub=escape(f"Answers of {model.name} {model.version}, one pass of one network."),
        notices=notices(findings, may_show_text),
        stage="planes" if volume else "",
        images_title="Images" if volume or several else "Image",
        image_label=_image_label(volume, several),
        slice_name="Axial slice" if volume else "Frame",
        findings=found,
        details=details(findings, _asset("niivue.LICENSES.txt") if volume else ""),
        foot=escape(f"mtnet {__version__}. {full_notice(model)}"),
        # A string in JSON may hold what ends a script element; escaped, it is the same string.
        data=json.dumps(scene.data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        blobs="\n".join(
            f'<script type="text/plain" id="blob-{name}">{base64.b64encode(content).decode("ascii")}</script>'
            for name, content in scene.blobs.items()
        ),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _image_label(volume: bool, several: bool) -> str:
    if volume:
        return "Axial, coronal and sagittal slices; page up and page down go through the axial ones"
    return "Frames of the clip; page up and page down go through them" if several else "The image"


def _policy(scripts: list[str], style: str) -> str:
    """Only these scripts and this style, by their hashes, and images that are in the page; no requests."""
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'sha256-{_hash(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _asset(name: str) -> str:
    return resources.files("mtnet.results.page").joinpath(name).read_text("utf-8")
