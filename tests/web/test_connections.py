"""Attacks on the web server alone: a well-behaved scraper is answered all the time, and memory does not grow.

Each answer must take less than one second; bench/attack_http.py prints how long they take.
"""

import re
import resource
import shutil
import socket
import time
from pathlib import Path

import pytest
from attacks import ATTACKS, GET, SCRAPE, Attack, Scraper, ask, launch, read_all, room_for
from serving import Served

from killsnoopd.web.connection import HEADER_BYTES

GROWTH_MB = 16
ORDINARY, FULL, HUGE = 25_000, 1_000_000, 4_000_000  # bytes of the page: 250 series, 10,000, 40,000


@pytest.fixture
def serve():
    """Start servers; each must end without leftovers."""
    started = []

    def start(*arguments, **options):
        started.append(Served(*arguments, **options))
        return started[-1]

    yield start
    for served in started:
        served.stop()
        assert "Traceback" not in served.said


@pytest.fixture
def many_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not room_for(5000):
        pytest.skip("needs 5,100 open files (ulimit -Hn); CI=true makes this a failure")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def attack(served, what, growth_mb=GROWTH_MB, seconds=0.7):
    """A scraper gets its page in time during the attack; returns the refusals by reason, and the responses."""
    for _ in range(3):
        assert served.ask(SCRAPE)[0] == 200
    before, peak = served.rss_mb(), 0.0
    with Scraper(served.port) as scraper:
        opened = launch(served.port, what)
        answers = read_all(opened, 20) if what.reads else []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            peak = max(peak, served.rss_mb())
            time.sleep(0.01)
    for client in opened:
        client.close()
    assert scraper.well_served(), scraper.scrapes
    assert peak - before < growth_mb
    refused = served.stop()
    assert refused["tasks"] == 0
    return refused, [answer[9:12] for answer in answers]


@pytest.mark.parametrize("name", [name for name, what in ATTACKS.items() if not what.reads])
def test_under_attack(serve, many_files, name):
    """Whatever is sent, and however often."""
    what = ATTACKS[name]
    refused, _ = attack(serve(ORDINARY), what)
    if what.connections == 5000:
        assert refused["evicted"] + refused["slow"] > 4900  # on a slow machine, more than one timeout passes
    elif name not in ("pipelined", "no reader"):
        assert refused["bad_request"] == what.connections


def test_a_thousand_scrapes_at_once(serve, many_files):
    """Each is answered, and so is the well-behaved scraper meanwhile."""
    _, statuses = attack(serve(ORDINARY), ATTACKS["1,000 scrapes"])
    assert statuses == [b"200"] * 1000


@pytest.mark.parametrize(("size", "connections"), [(HUGE, 50), (FULL, 200)])
def test_nobody_reads_a_big_page(serve, many_files, size, connections):
    """A page is in memory once for all clients that do not read it; they make room for one that does."""
    attack(serve(size), Attack(connections, GET), growth_mb=32 + 2 * size / 1e6 + 32)


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit (util-linux); CI=true makes this a failure")
def test_few_open_files(serve, many_files):
    """At `ulimit -n 64` fewer connections are open, and accept(2) does not fail."""
    served = serve(ORDINARY, prefix=("prlimit", "--nofile=64:64"))
    refused, _ = attack(served, Attack(2000, b"GET /metrics HTTP/1.1\r\n"))
    assert refused["evicted"] > 1900
    (places,) = re.findall(r"at most (\d+) connections: raise the limit on open files", served.said)
    assert 32 <= int(places) < 64 - 16  # 16 are spare, and the server itself uses some


def test_so_few_open_files_that_accept_fails(serve):
    """The limit shrinks under the daemon: connections wait until there is room."""
    served = serve(4000)
    resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (served.fds(), 64))
    with socket.create_connection(("127.0.0.1", served.port), 10) as client:
        client.sendall(GET)
        time.sleep(0.3)
        before = sum(resource_usage(served.pid))
        time.sleep(0.5)
        assert sum(resource_usage(served.pid)) - before < 25  # ticks of 10 ms: no busy loop
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (64, 64))
        assert client.recv(12) == b"HTTP/1.1 200"


def resource_usage(pid):
    stat = Path(f"/proc/{pid}/stat").read_text()
    return [int(field) for field in stat.rpartition(")")[2].split()[11:13]]


def test_the_peer_that_holds_most_makes_room(serve, many_files):
    """A slow connection from another address outlives a flood from one."""
    served = serve(4000)
    with socket.create_connection(("127.0.0.1", served.port), 10, ("127.0.0.2", 0)) as slow:
        slow.sendall(GET[:10])
        opened = launch(served.port, Attack(1000, GET[:10]))
        assert served.ask()[0] == 200  # the whole flood has been accepted
        slow.sendall(GET[10:])
        assert slow.recv(12) == b"HTTP/1.1 200"
    for client in opened:
        client.close()


def test_a_header_has_five_seconds(serve):
    """From accept(2) on, however slowly it arrives; a complete request has longer."""
    served = serve(4000)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), 20) as client:
        for byte in b"GET /metrics":
            client.sendall(bytes([byte]))
        assert client.recv(1) == b""
    assert 4 < time.monotonic() - begin < 15
    assert served.stop()["slow"] == 1


def test_a_big_answer_is_read_to_its_end(serve):
    """By a client that takes two seconds; plain and HEAD, with the right number of bytes."""
    served = serve(HUGE)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(20)
        client.connect(("127.0.0.1", served.port))
        client.sendall(GET)
        received = bytearray()
        while part := client.recv(100_000):
            received += part
            time.sleep(0.02)
    header, _, body = bytes(received).partition(b"\r\n\r\n")
    assert len(body) > 3_000_000
    assert b"Content-Length: %d\r\n" % len(body) in header + b"\r\n"
    assert body.endswith(b"\n")
    assert b"Connection: close" in header
    status, answer = served.ask(GET.replace(b"GET", b"HEAD"))
    assert (status, answer.partition(b"\r\n\r\n")[2]) == (200, b"")
    assert b"Content-Length: %d\r\n" % len(body) in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics?name=x HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (GET + GET, 200),
        (b"GET /metrics\r\n\r\n", 400),
        (b"get / http/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"\x00", 400),
        (b"GET /metrics HTTP/1.1\r\nbroken\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * HEADER_BYTES, 431),
        (b"GET /" + b"a" * HEADER_BYTES, 431),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", 413),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n", 413),
        (b"GET //metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /../metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /%2e%2e/metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /metrics%2e HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /metrics%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
    ids=lambda value: (
        value[:40].decode("latin-1").encode("unicode_escape").decode() if isinstance(value, bytes) else None
    ),
)
def test_requests(server, request_, status):
    """Each gets one response with one status, then the connection ends."""
    got, answer = server.ask(request_)
    assert got == status
    assert len(re.findall(rb"HTTP/1\.\d \d{3} ", answer)) == 1
    assert b"onnection: close" in answer or answer.startswith(b"HTTP/1.0")


@pytest.fixture(scope="module")
def server():
    served = Served(4000)
    yield served
    served.stop()
    assert "Traceback" not in served.said


def test_a_turn_to_scrape(serve):
    """With --web.max-requests=1, each of a hundred at once gets the page or 503."""
    served = serve(ORDINARY, max_requests=1)
    opened = launch(served.port, Attack(100, SCRAPE, reads=True))
    answers = read_all(opened, 20)
    for client in opened:
        client.close()
    statuses = {answer[9:12] for answer in answers}
    assert b"200" in statuses
    assert statuses <= {b"200", b"503"}
    assert served.stop()["busy"] == sum(answer[9:12] == b"503" for answer in answers)


def test_a_turn_is_waited_for_while_pages_are_built(serve):
    """With one slot and a slow page, the third client is answered too."""
    served = serve(8_000_000, max_requests=1)
    opened = launch(served.port, Attack(3, SCRAPE, reads=True))
    answers = read_all(opened, 20)
    for client in opened:
        client.close()
    assert [answer[9:12] for answer in answers] == [b"200"] * 3
    assert served.stop()["busy"] == 0


def test_the_page_tells_of_it(serve):
    """Connections, their limit, and refusals by reason."""
    served = serve(4000)
    ask(served.port, b"\x00")
    page = served.ask()[1].decode()
    assert "\nkillsnoop_http_connections 1.0\n" in page
    assert "\nkillsnoop_http_connections_limit 64.0\n" in page
    assert '\nkillsnoop_http_refused_total{reason="bad_request"} 1.0\n' in page
    assert '\nkillsnoop_http_refused_total{reason="evicted"} 0.0\n' in page
