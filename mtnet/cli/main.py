"""The ``mtnet`` command: picks the sub-command, turns refusals into exit codes and messages for people.

Exit codes: 0 done; 1 refused, with the reason on standard error; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from mtnet import __version__
from mtnet.cli import convert, demo, infer, info, scan
from mtnet.structures.report import RefusedError

DONE, REFUSED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="mtnet",
        description="One study in, one pass of one network, every answer out. Research use only; not a medical device.",
        epilog="Exit codes: 0 done, 1 refused with a reason, 2 wrong usage. Example: mtnet infer STUDY OUT "
        "--bundle chest_ct_multitask",
    )
    parser.add_argument("--version", action="version", version=f"mtnet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in (scan, convert, infer, demo, info):
        module.add_parser(commands)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return USAGE
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("mtnet").setLevel(logging.DEBUG if args.debug else logging.WARNING)
    try:
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        print("mtnet: interrupted; no partial file was left.", file=sys.stderr)
        return INTERRUPTED
    except (RefusedError, OSError, ValueError) as error:
        if args.debug:
            raise
        print(f"mtnet {args.command}: {error}", file=sys.stderr)
        return REFUSED
