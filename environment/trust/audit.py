"""``make audit``: are there known vulnerabilities in the exact versions that ``make`` installs?

pip-audit looks each of ``constraints.txt`` up. It says "no known vulnerabilities" of packages that it could not look up
too; here that is a failure. ``known_findings.json`` beside this file holds findings that were judged, each with
``id``, ``package`` and ``reason``; one that is found no longer is a failure as well, so that the list stays true.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parents[1] / "constraints.txt"


def judge(report: Mapping[str, Any], known: Sequence[Mapping[str, str]]) -> list[str]:
    """What is wrong, a line each; empty where every package was looked up and nothing new was found.

    Args:
        report: what ``pip-audit -f json`` wrote.
        known: findings that were judged.

    Raises:
        ValueError: a known finding has no reason.
    """
    for one in known:
        if not all(one.get(key, "").strip() for key in ("id", "package", "reason")):
            raise ValueError(f"known_findings.json: {dict(one)} needs id, package and reason.")
    packages = report["dependencies"]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    found = {(v["id"], one["name"]): one["version"] for one in packages for v in one.get("vulns", ())}
    judged = {(one["id"], one["package"]) for one in known}
    lines = []
    if skipped:
        lines.append(
            f"{len(skipped)} of {len(packages)} packages were not looked up ({', '.join(skipped[:3])}...): nothing is "
            "known of them. Run this where PyPI's advisories can be reached, and not only a mirror."
        )
    lines += [f"{name} {version}: {id_} is not judged yet." for (id_, name), version in found.items()
              if (id_, name) not in judged]  # fmt: skip
    if not skipped:
        lines += [f"{name}: {id_} is found no longer; remove it." for id_, name in sorted(judged - set(found))]
    return lines


def main() -> int:
    """Look everything up, and print what is wrong."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "-f", "json"]
    done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        print(done.stderr[-2000:], file=sys.stderr)
        return 1
    lines = judge(report, json.loads((HERE / "known_findings.json").read_text(encoding="utf-8")))
    print("\n".join(lines) or f"{len(report['dependencies'])} packages were looked up; nothing new was found.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
