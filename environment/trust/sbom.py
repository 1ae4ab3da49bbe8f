"""``make sbom``: a CycloneDX list of all software that ``make`` installs, and of the JavaScript that pages hold."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "mtnet" / "results" / "page"
_LICENSED = re.compile(r"^(@?[\w/.-]+) (\d[\w.-]*) \(([\w.-]+)\)$", re.MULTILINE)


def completed(document: dict[str, Any], licences: str, asset: bytes) -> dict[str, Any]:
    """The list of an environment with mtnet as what it is about, and with the packages that are in ``niivue.js``.

    Args:
        document: what ``cyclonedx-py environment`` wrote.
        licences: the text of ``niivue.LICENSES.txt``, which names each package, its version and its licence.
        asset: the bytes of ``niivue.js``.
    """
    own = next(one for one in document["components"] if one["name"] == "mtnet")
    # It names the folder on the machine that the list was made on.
    own.pop("externalReferences", None)
    own["type"] = "application"
    scripts = [
        {
            "type": "library",
            "bom-ref": f"pkg:npm/{quote(name, safe='/')}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:npm/{quote(name, safe='/')}@{version}",
            "licenses": [{"license": {"id": licence}}],
        }
        for name, version, licence in _LICENSED.findall(licences)
    ]
    built = {
        "type": "file",
        "bom-ref": "mtnet/results/page/niivue.js",
        "name": "niivue.js",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(asset).hexdigest()}],
    }
    components = [one for one in document["components"] if one is not own]
    dependencies = [one for one in document["dependencies"] if one["ref"] != own["bom-ref"]]
    needed = next((one.get("dependsOn", []) for one in document["dependencies"] if one["ref"] == own["bom-ref"]), [])
    dependencies.append({"ref": own["bom-ref"], "dependsOn": [*needed, built["bom-ref"]]})
    dependencies.append({"ref": built["bom-ref"], "dependsOn": [one["bom-ref"] for one in scripts]})
    dependencies += [{"ref": one["bom-ref"]} for one in scripts]
    return {
        **document,
        "metadata": {**document["metadata"], "component": own},
        "components": [*components, built, *scripts],
        "dependencies": dependencies,
    }


def main(out: Path) -> int:
    """Write the list, checked against the schema of CycloneDX."""
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(ROOT / ".venv" / "bin" / "python")]
    made = subprocess.run(
        [*command, "--output-reproducible", "--of", "JSON"], capture_output=True, text=True, check=True
    )
    licences = (PAGE / "niivue.LICENSES.txt").read_text(encoding="utf-8")
    document = completed(json.loads(made.stdout), licences, (PAGE / "niivue.js").read_bytes())
    text = json.dumps(document, indent=2)
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        print(f"The list breaks the schema of CycloneDX 1.6: {wrong}", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")
    print(f"{len(document['components'])} components in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
