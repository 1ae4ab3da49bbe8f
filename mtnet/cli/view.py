"""``mtnet view``: the page of a result folder in a browser."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add ``mtnet view`` to the command line."""
    parser = commands.add_parser(
        "view",
        help="look at results in a browser",
        description="Serve report.html of a result folder, or of the studies in it, and the results beside it on "
        "127.0.0.1 until Ctrl-C. The address holds a random word that is new each time; nothing else of the folder is "
        "served, and it is never listed. report.html itself also opens from a double click.",
        epilog="Example: mtnet infer STUDY OUT --bundle chest_ct_multitask --page, then mtnet view OUT. "
        "Exit codes: 0 ended by Ctrl-C, 1 there is no page, 2 wrong usage.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that mtnet infer --page wrote to")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from mtnet.cli.page_server import PageServer

    with PageServer(args.out, args.port) as server:
        print(server.url, flush=True)
        print("Serving on this machine only; Ctrl-C ends it.", file=sys.stderr)
        if args.open:
            import webbrowser

            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0
