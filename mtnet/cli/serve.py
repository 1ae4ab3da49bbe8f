"""``mtnet serve``: a DICOM node that answers what it is sent."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtnet.hosts.node.config import NodeConfig

_ACTIONS = {
    "status": "show the studies in the queue, what is done and what is not",
    "retry": "start anew what was set aside or waits after a failure, of all studies or one",
    "forget": "remove a study from the queue with its objects and answers; what was sent stays where it is",
}


def add_parser(commands: Any) -> None:
    """Add ``mtnet serve`` to the command line."""
    parser = commands.add_parser(
        "serve",
        help="run a DICOM node that answers studies as they arrive",
        description="Run a DICOM node (C-ECHO, C-STORE): a study that is complete is answered by the bundles of its "
        "routes, and the answers go to an archive or folder. What happens is told as JSON lines on standard error. The "
        "actions show and mend the queue of a node, whether it runs or not; studies are named by the pseudonym of the "
        "log or by their UID.",
        epilog="Example: mtnet serve --config node.toml; mtnet serve status --config node.toml; "
        "mtnet serve retry --config node.toml 3fa94c12. docs/node.md has a config to begin with. Exit codes: 0 stopped "
        "by SIGTERM, or done; 1 refused with a reason; 2 wrong usage.",
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="what the node is told")
    parser.set_defaults(run=run, usage_error=parser.error)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help="without one, the node runs")
    for name, says in _ACTIONS.items():
        action = actions.add_parser(name, help=says, description=says.capitalize() + ".")
        action.add_argument("study", nargs="?", metavar="STUDY", help="pseudonym, or the beginning of it, or UID")
        action.add_argument("--config", type=Path, metavar="TOML", default=argparse.SUPPRESS, help="as of the node")
        if name == "status":
            action.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Run the node, or look at its queue.

    Raises:
        ValueError: the config is wrong, or there is no such study.
        OSError: the node cannot start, or there is no queue.
    """
    from mtnet.hosts.node.config import read_config

    if args.config is None:
        args.usage_error("the following arguments are required: --config")
    config = read_config(args.config)
    if args.action is None:
        from mtnet.hosts.node.lines import Lines
        from mtnet.hosts.node.node import serve

        serve(config, Lines())
        return 0
    return _mend(args, config)


def _mend(args: argparse.Namespace, config: NodeConfig) -> int:
    from mtnet.hosts.node.database import DATABASE
    from mtnet.hosts.node.keeper import remove_study
    from mtnet.hosts.node.ledger import Ledger
    from mtnet.hosts.node.overview import find, overview

    if not (config.state / DATABASE).is_file():
        raise FileNotFoundError(f"{config.state} holds no queue: no node has run with {args.config} yet.")
    ledger = Ledger(config.state)
    try:
        study = find(ledger, args.study) if args.study else None
        if args.action == "status":
            studies = overview(ledger, study)
            print(json.dumps(studies, indent=2) if args.json else _table(studies))
        elif args.action == "retry":
            print(f"{ledger.retry(study)} thing(s) that were set aside, or waited after a failure, start anew.")
        elif study is None:
            raise ValueError("Which study is to be forgotten? mtnet serve status lists them.")
        else:
            remove_study(config.state, ledger, study)
            print("It is forgotten: its objects and answers are removed here; what was sent stays where it is.")
    finally:
        ledger.close()
    return 0


def _table(studies: list[dict[str, Any]]) -> str:
    if not studies:
        return "The queue is empty."
    lines = []
    for study in studies:
        size = study["bytes"] / 2**20
        reason = f" ({study['reason']})" if study["reason"] else ""
        lines.append(
            f"{study['study']}  {study['state']}{reason}, {study['instances']} instances, {size:.1f} MiB, "
            f"quiet for {study['quiet_s']:.0f} s"
        )
        for task in study["tasks"]:
            lines.append(f"  {task['route']}: {_state(task, task['attempts'])}")
            lines += [f"    to {sent['destination']}: {_state(sent, sent['failures'])}" for sent in task["deliveries"]]
    return "\n".join(lines)


def _state(entry: dict[str, Any], attempts: int) -> str:
    told = str(entry["state"])
    if told == "ready" and attempts:
        told += f", again in {entry['due_in_s']:.0f} s"
    if entry["reason"]:
        told += f", after {attempts} attempt(s): {entry['reason']}"
    return told
