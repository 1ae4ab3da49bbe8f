"""The ``mtnet`` command: picks the sub-command, turns refusals into exit codes and messages for people.

Exit codes: 0 done; 1 refused, with the reason on standard error; 2 wrong usage; 3 failed unexpectedly; 130 interrupted.
Nothing heavy is imported here: ``mtnet --help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mtnet import __version__
from mtnet.cli import batch, bundles, convert, demo, describe, evaluate, infer, info, prepare, scan, serve, view
from mtnet.cli.terminal import plain

DONE, REFUSED, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return USAGE
    _log(debug=args.debug)
    try:
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        print("mtnet: interrupted; no partial file was left.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        told = "\n".join(plain(line) for line in str(error).split("\n"))
        # RefusedError and BundleError are ValueErrors; they and OSErrors say what a person can do about them.
        if isinstance(error, (OSError, ValueError)):
            print(f"mtnet {args.command}: {told}", file=sys.stderr)
            return REFUSED
        if isinstance(error, MemoryError):
            print(f"mtnet {args.command}: there is not enough memory. {told}".rstrip(), file=sys.stderr)
            return REFUSED
        print(
            f"mtnet {args.command}: failed unexpectedly ({type(error).__name__}: {told}). "
            "Please report it with what --debug shows.",
            file=sys.stderr,
        )
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtnet",
        description="One study in, one pass of one network, every answer out. Research use only; not a medical device.",
        epilog="Exit codes: 0 done, 1 refused with a reason, 2 wrong usage, 3 failed unexpectedly. "
        "Example: mtnet infer STUDY OUT --bundle chest_ct_multitask",
    )
    parser.add_argument("--version", action="version", version=f"mtnet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in (scan, convert, infer, batch, bundles, describe, prepare, evaluate, demo, info, serve, view):
        module.add_parser(commands)
    for command in commands.choices.values():
        # Without a default of its own it does not undo a --debug that stands before the command.
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
    return parser


def _log(*, debug: bool) -> None:
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("mtnet").setLevel(logging.DEBUG if debug else logging.WARNING)
