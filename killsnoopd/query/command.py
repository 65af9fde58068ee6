"""The `killsnoop` command: logged events as a table, and who killed a process. It only needs to read the journal."""

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from killsnoopd import __version__, cli
from killsnoopd.failure import Exit, Failure
from killsnoopd.query import output, records, story, table, top, users, who
from killsnoopd.query.output import Output
from killsnoopd.query.records import Journal, Record, Wanted
from killsnoopd.query.table import Style
from killsnoopd.query.who import Answer, Around

_EXAMPLES = """\
examples:
  killsnoop                      signals as they are sent (on a terminal)
  killsnoop --since=-1h -x       what failed in the last hour
  killsnoop -s KILL,TERM -u nginx --since=today
  killsnoop who nginx            who killed it last; also who 812, who nginx.service
  killsnoop top --since=today    which senders have the most kills
  killsnoop events.jsonl         from a file of JSON lines; - is standard input

exit codes:
   0  Printed what was asked for.
   1  who: no signal that ended it is known.
   2  A flag is unknown, or its value is wrong.
  69  There is no journal or no such file, or the output cannot be written.
  77  Not allowed to read all of the system's journal.
"""

_Source = AbstractContextManager[Iterator[Record]]


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
    result.add_argument("-D", "--directory", metavar="DIR", help="read the journal files in this folder")
    result.add_argument("--merge", action="store_true", help="read the journals of all machines that are stored here")
    result.add_argument("-M", "--machine", metavar="MACHINE", help="read the journal of this container")
    result.add_argument("-n", "--numeric", action="store_true", help="show uids instead of user names")
    result.add_argument("--version", action="version", version=f"killsnoop {__version__}")
    return result


def _add_file(parser: argparse.ArgumentParser) -> None:
    text = "read JSON lines from FILE (-: standard input) instead of the journal"
    parser.add_argument("file", nargs="?", metavar="FILE", help=text)


def _add_follow(parser: argparse.ArgumentParser) -> None:
    text = "keep printing as events come (the default of the table on a terminal)"
    parser.add_argument("-f", "--follow", action="store_true", help=text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    text = "output format (default %(default)s)"
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help=text)


def table_parser() -> argparse.ArgumentParser:
    """The flags of `killsnoop`; the single letters are those of bcc's killsnoop."""
    result = _parser("killsnoop", "Shows who sent which signal to whom, from killsnoopd's events. "
                     "`killsnoop who PID|COMM|UNIT|POD` says who killed a process, "
                     "`killsnoop top` the largest numbers of kills.", _EXAMPLES)  # fmt: skip
    add = result.add_argument
    _add_file(result)
    _add_follow(result)
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
    add("-u", "--unit", metavar="UNIT|NAMESPACE/POD", help="only signals from or to this systemd unit or pod")
    add("-c", "--cmdline", action="store_true", help="also show the sender's command line")
    add("-a", "--ancestors", action="store_true", help="also show the sender's parent, its parent, and so on")
    add("-d", "--deaths", action="store_true", help="also show deaths, and exits soon after a signal")
    _add_output(result)
    return result


def who_parser() -> argparse.ArgumentParser:
    """The flags of `killsnoop who`."""
    result = _parser(
        "killsnoop who",
        "Says what ended a process last: which signal, or an exit soon after one; who sent it, when and how; "
        "and what else that sender ended within a minute.",
    )
    result.add_argument(
        "asked",
        metavar="PID|COMM|UNIT|POD",
        help="process id, name or path, systemd unit, pod or NAMESPACE/POD, machine, container id",
    )
    _add_file(result)
    return result


def top_parser() -> argparse.ArgumentParser:
    """The flags of `killsnoop top`."""
    result = _parser(
        "killsnoop top", "Shows which senders, targets, or units and pods have the most kills, in the last hour."
    )
    _add_file(result)
    result.add_argument("-b", "--by", choices=top.BY, default="sender", help="what to count by (default %(default)s)")
    _add_follow(result)
    _add_output(result)
    return result


def _complain(line: str) -> None:
    sys.stderr.write(f"killsnoop: {line}\n")


def _journal(args: argparse.Namespace) -> Journal:
    return Journal(args.since, args.until, args.directory, args.merge, args.machine)


def _check_file(args: argparse.Namespace) -> None:
    if _journal(args) != Journal():
        raise Failure(
            Exit.USAGE,
            "--since, --until, --directory, --merge and --machine apply to the journal: omit them with a FILE",
        )


def _source(args: argparse.Namespace, kinds: tuple[str, ...], *, follow: bool = False) -> _Source:
    if args.file is None:
        every = (tuple(f"KILLSNOOP_EVENT={kind}" for kind in kinds),)
        records.check_journal(records.check_command(_journal(args)))
        return records.from_journal(records.journal_command(_journal(args), every, follow=follow))
    _check_file(args)
    return records.from_file(args.file, _complain)


def _elsewhere(args: argparse.Namespace) -> bool:
    """Whether the events may be other machines'."""
    return bool(args.file or args.directory or args.merge or args.machine)


def _named(args: argparse.Namespace) -> users.Named:
    return users.number if args.numeric or _elsewhere(args) else users.name


def show(args: argparse.Namespace, out: Output) -> int:
    """Print events as a table or as JSON."""
    kinds = records.KINDS if args.deaths else ("call", "delivery")
    wanted = Wanted(args.failed, args.pid, args.tpid, frozenset().union(*(args.signal or ())), args.unit, kinds)
    live = args.follow or (out.terminal and not (args.file or args.since or args.until or args.directory))
    total = shutil.get_terminal_size((160, 24)).columns if out.terminal else 160
    style = Style(out.terminal and not os.environ.get("NO_COLOR"), out.encoding, _named(args))
    with _source(args, kinds, follow=live) as found:
        # A journal that cannot be read is an error, and not a heading without rows; live, the heading does not wait.
        first = [] if live else list(itertools.islice(found, 1))
        hosts = args.merge or bool(args.directory) or any("_HOSTNAME" in record for record in first if args.file)
        long = (table.COMMAND,) * args.cmdline + (table.ANCESTORS,) * args.ancestors
        chosen = table.columns(total, dated=not live, hosts=hosts, long=long, cut=out.terminal)
        if args.output == "table":
            out.line(table.head(chosen), flush=True)
        for record in itertools.chain(first, found):
            if wanted.has(record):
                # json.dumps escapes all but ASCII, so the line cannot move the cursor or reverse the text.
                out.line(json.dumps(record) if args.output == "json" else table.row(record, chosen, style), flush=live)
    return Exit.OK


def _search(args: argparse.Namespace) -> tuple[Answer, Around] | None:
    if args.file is None:
        journal = _journal(args)
        matches = who.candidates(args.asked)
        records.check_journal(records.check_command(journal))
        with records.from_journal(records.journal_command(journal, matches, newest_first=True)) as found:
            answer = who.search(found, args.asked, newest_first=True)
        if answer is None:
            return None
        part = records.near(journal, answer.last, 2 * who.BEFORE, 2 * who.AROUND)
        with records.from_journal(records.journal_command(part, who.company(answer.last))) as found:
            return answer, who.around(found, answer.last)
    _check_file(args)
    with records.twice_from_file(args.file, _complain) as read:
        answer = who.search(read(), args.asked)
        return (answer, who.around(read(), answer.last)) if answer else None


def _why_not(args: argparse.Namespace) -> str:
    if args.file is None:
        with _source(args, records.KINDS) as found:
            if next(found, None) is None:
                return "the journal has no event of killsnoopd at all for that time: check that it runs"
    return "an end without a signal is not logged"


def tell(args: argparse.Namespace, out: Output) -> int:
    """Print what ended it, in a few sentences."""
    if (found := _search(args)) is None:
        _complain(f"no record of a signal that ended {table.safe(args.asked)}; {_why_not(args)}")
        return 1
    answer, around = found
    if answer.note:
        out.line(f"{answer.note}.")
    out.line(story.sentences(answer, around, _named(args), hosts=_elsewhere(args)))
    return Exit.OK


def rank(args: argparse.Namespace, out: Output) -> int:
    """Print the largest numbers of kills, once or repeatedly."""
    style = Style(encoding=out.encoding, named=_named(args))
    if args.follow and not (out.terminal and args.file is None and args.output == "table"):
        raise Failure(Exit.USAGE, "--follow needs a terminal, and the journal: omit it with a FILE, a pipe or JSON")
    if args.file is None and not (args.since or args.until):
        args.since = "-1h"
    while True:
        began = time.monotonic()
        with _source(args, top.KINDS) as events:
            found = top.tally(events, args.by, style)
        size = shutil.get_terminal_size() if out.terminal else os.terminal_size((1000, 1000))
        if args.output == "json":
            for kills in found:
                out.line(json.dumps(top.as_json(kills, args.by)))
        else:
            shown = itertools.islice(top.lines(found, args.by, size.columns, style), max(2, size.lines - 1))
            out.line(("\033[H\033[2J" if args.follow else "") + "\n".join(shown), flush=True)
        if not args.follow:
            return Exit.OK
        # Reads the journal anew, so that old kills leave the period; never more than a fifth of the time.
        time.sleep(max(2, 4 * (time.monotonic() - began)))


def main(argv: list[str] | None = None) -> int:
    """Entry point of `killsnoop`."""
    argv = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end silently when piped into `head`
    program, parser = _COMMANDS.get("".join(argv[:1]), (show, table_parser))
    try:
        with output.standard() as out:
            return program(parser().parse_args(argv[program is not show :]), out)
    except Failure as failure:
        _complain(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        return Exit.OK


_COMMANDS = {"who": (tell, who_parser), "top": (rank, top_parser)}


if __name__ == "__main__":
    sys.exit(main())
