"""The `killsnoop` command: logged events as a table, and who killed a process. It only needs to read the journal."""

import argparse
import json
import os
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from typing import IO, Any

from killsnoopd import __version__, cli
from killsnoopd.event import KINDS
from killsnoopd.failure import Exit, Failure
from killsnoopd.query import records, table, who
from killsnoopd.query.records import Wanted

_EXAMPLES = """\
examples:
  killsnoop                      signals as they are sent (on a terminal)
  killsnoop --since=-1h -x       what failed in the last hour
  killsnoop -s KILL,TERM -u nginx --since=today
  killsnoop who nginx            who killed it last; also who 812, who nginx.service
  killsnoop events.jsonl         from a file of JSON lines; - is standard input

exit codes:
   0  Printed what was asked for.
   1  who: no signal that killed it is known.
   2  A flag is unknown, or its value is wrong.
  69  There is no journal, or no such file.
  77  Not allowed to read the journal.
"""


def _number(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise argparse.ArgumentTypeError(f"{value!r} is not a process id")
    return int(value)


def _parser(program: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    result = cli.Parser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--since", metavar="TIME", help="start time, as in journalctl: -1h, today, '2026-11-22 03:00'")
    result.add_argument("--until", metavar="TIME", help="end time")
    result.add_argument("--version", action="version", version=f"killsnoop {__version__}")
    return result


def table_parser() -> argparse.ArgumentParser:
    """The flags of `killsnoop`; the single letters are those of bcc's killsnoop."""
    result = _parser("killsnoop", "Shows who sent which signal to whom, from killsnoopd's events. "
                     "`killsnoop who PID|COMM|UNIT` says who killed a process.", _EXAMPLES)  # fmt: skip
    add = result.add_argument
    add("file", nargs="?", metavar="FILE", help="read JSON lines from FILE (-: standard input) instead of the journal")
    add(
        "-f",
        "--follow",
        action="store_true",
        help="keep printing new events (the default on a terminal)",
    )
    add("-x", "--failed", action="store_true", help="only signals that could not be sent")
    add("-p", "--pid", type=_number, metavar="PID", help="only signals that this process sent")
    add("-T", "--tpid", type=_number, metavar="TPID", help="only signals sent to this process")
    add(
        "-s",
        "--signal",
        type=cli.signals,
        action="append",
        metavar="SIG[,SIG]",
        help="only these signals, by name or number",
    )
    add("-u", "--unit", metavar="UNIT", help="only signals from or to this systemd unit")
    add("-d", "--deaths", action="store_true", help="also show deaths")
    add("-o", "--output", choices=("table", "json"), default="table", help="output format (default %(default)s)")
    return result


def who_parser() -> argparse.ArgumentParser:
    """The flags of `killsnoop who`."""
    result = _parser(
        "killsnoop who",
        "Says who killed a process last, when and how, and what else that sender killed within a minute.",
    )
    result.add_argument("asked", metavar="PID|COMM|UNIT", help="process id, process name, systemd unit or container id")
    result.add_argument(
        "file", nargs="?", metavar="FILE", help="read JSON lines from FILE (-: standard input) instead of the journal"
    )
    return result


def _complain(line: str) -> None:
    sys.stderr.write(f"killsnoop: {line}\n")


def _source(args: argparse.Namespace, kinds: tuple[str, ...], **how: bool) -> AbstractContextManager[Any]:
    if args.file is None:
        return records.from_journal(records.journal_command(kinds, since=args.since, until=args.until, **how))
    if args.since or args.until:
        raise Failure(Exit.USAGE, "--since and --until apply to the journal: leave them out with a FILE")
    return records.from_file(args.file, _complain)


def show(args: argparse.Namespace, out: IO[str], *, terminal: bool) -> int:
    """Print events as a table or as JSON."""
    kinds = KINDS if args.deaths else ("call", "delivery")
    wanted = Wanted(args.failed, args.pid, args.tpid, frozenset().union(*(args.signal or ())), args.unit, kinds)
    live = args.follow or (terminal and not (args.file or args.since or args.until))
    size = shutil.get_terminal_size((160, 24)) if terminal else os.terminal_size((160, 24))
    chosen = table.columns(size.columns, dated=not live)
    coloured = terminal and not os.environ.get("NO_COLOR")
    with _source(args, kinds, follow=live) as found:
        if args.output == "table":
            print(table.head(chosen), file=out, flush=True)
        for record in found:
            if wanted.has(record):
                as_json = args.output == "json"
                # json.dumps escapes all but ASCII, so the line cannot move the cursor or reverse the text.
                line = json.dumps(record) if as_json else table.row(record, chosen, coloured=coloured)
                print(line, file=out, flush=live)
    return Exit.OK


def tell(args: argparse.Namespace, out: IO[str]) -> int:
    """Print who killed it, as a sentence."""
    with _source(args, ("delivery", "death"), newest_first=True) as found:
        newest_first = found if args.file is None else reversed(list(found))
        record, others = who.search(newest_first, args.asked)
    if record is None:
        _complain(f"no record of a signal that killed {table.safe(args.asked)}")
        return 1
    print(who.sentence(record, others), file=out)
    return Exit.OK


def main(argv: list[str] | None = None) -> int:
    """Entry point of `killsnoop`."""
    argv = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end silently when piped into `head`
    try:
        if argv[:1] == ["who"]:
            return tell(who_parser().parse_args(argv[1:]), sys.stdout)
        return show(table_parser().parse_args(argv), sys.stdout, terminal=sys.stdout.isatty())
    except Failure as failure:
        _complain(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
