"""The documents state the limits of the port as the code has them."""

import re
from pathlib import Path

import pytest

from killsnoopd import cli
from killsnoopd.web.connection import _SLICE_BYTES, ANSWER_S, HEADER_S, STALL_S
from killsnoopd.web.connections import MAX_BODY_BYTES, MAX_OPEN
from killsnoopd.web.message import _LINES, HEADER_BYTES
from killsnoopd.web.passwords import WAITING_PER_PEER
from killsnoopd.web.policy import SLOT_S

DOCS = Path(__file__).parent.parent.parent / "docs"
SENTENCES = {
    "design.md": (f"At most {MAX_OPEN} connections are open.",),
    "security.md": (
        f"| {MAX_OPEN} connections, fewer if the file limit is low;",
        f"; {HEADER_S:.0f} s for the handshake and the header |",
        f"| {HEADER_BYTES >> 10} KiB and {_LINES} lines;",
        f"slices of {_SLICE_BYTES >> 10} KiB; a page is in memory once, different pages share {MAX_BODY_BYTES >> 20} MiB; "
        f"a client that reads nothing for {STALL_S * 1000:.0f} ms makes room; {ANSWER_S:.0f} s |",
        f"bcrypt in one thread, {WAITING_PER_PEER} at a time per address, then 429;",
        f"a peer with more than {MAX_OPEN} addresses",
    ),
    "killsnoopd.8": (
        f"At most {MAX_OPEN} connections are open at a time",
        f"together may take {HEADER_S:.0f} seconds, and the header {HEADER_BYTES >> 10} KiB; "
        f"the response may take {ANSWER_S:.0f} seconds.",
        f"At most {MAX_BODY_BYTES >> 20} MiB of responses wait",
        f"at most {WAITING_PER_PEER} at a time from one peer; further ones get 429.",
        f"Others wait up to {SLOT_S:.0f} seconds, then get 503.",
    ),
}


def text(document):
    return " ".join((DOCS / document).read_text().split())


@pytest.mark.parametrize("document", SENTENCES)
def test_limits_of_the_port(document):
    """Each is in its sentence."""
    assert [sentence for sentence in SENTENCES[document] if sentence not in text(document)] == []


def test_the_man_page_states_no_other_number():
    """Every number in its section on the port is in a sentence above."""
    section = text("killsnoopd.8").partition(".SH LIMITS OF THE PORT")[2].partition(".SH")[0]
    for sentence in SENTENCES["killsnoopd.8"]:
        section = section.replace(sentence, "")
    assert re.findall(r"\d+", section) == []


def test_help():
    """The time that a scrape waits for its turn."""
    assert f"others wait up to {SLOT_S:.0f} seconds, then get 503" in " ".join(cli.parser().format_help().split())
