"""--web.config.file with real TLS and real passwords: who gets in, under attack too, and after a change."""

import base64
import contextlib
import multiprocessing
import shutil
import signal
import socket
import ssl
import time

import certificates
import pytest
from attacks import ATTACKS, CLIENT_HELLO, GET, SCRAPE, Attack, Scraper, launch, trusting
from serving import Served
from waiting import wait_for

from killsnoopd.web.config import CIPHERS, CIPHERS_13

pytest.importorskip("yaml")
bcrypt = pytest.importorskip("bcrypt")

from web_files import AUTH, CA, HASH, PAIR, listed, write  # noqa: E402 # it needs bcrypt


def client_context(folder, name=None, **settings):
    context = trusting(folder / "ca.crt")
    if name:
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    for key, value in settings.items():
        setattr(context, key, value)
    return context


@pytest.fixture
def serve(folder):
    """Start a server with a configuration; it must end without a traceback or a leftover task."""
    started = []

    def start(text, page_bytes=4000):
        path = folder / f"live{len(started)}.yml"
        started.append(Served(page_bytes, write(folder, path, text)))
        assert started[-1].port, started[-1].said
        started[-1].config = path
        return started[-1]

    yield start
    for served in started:
        refused = served.stop()
        assert refused is None or refused["tasks"] == 0
        assert "Traceback" not in served.said


VERIFY = PAIR + AUTH.format("RequireAndVerifyClientCert") + CA
GIVEN = PAIR + AUTH.format("VerifyClientCertIfGiven") + CA


@pytest.mark.parametrize(
    ("config", "client", "status"),
    [
        (PAIR, None, 200),
        (PAIR, "stranger", 200),
        (PAIR + AUTH.format("RequestClientCert"), None, 200),
        (PAIR + AUTH.format("RequestClientCert"), "stranger", 200),
        (VERIFY, "client", 200),
        (VERIFY, None, 0),
        (VERIFY, "stranger", 0),
        (PAIR + AUTH.format("RequireAndVerifyClientCert"), "client", 0),  # only the system's CAs
        (GIVEN, None, 200),
        (GIVEN, "client", 200),
        (GIVEN, "stranger", 0),
        (VERIFY + listed("client_allowed_sans", ["x", "scraper.example"]), "client", 200),
        (VERIFY + listed("client_allowed_sans", ["spiffe://example/prometheus"]), "client", 200),
        (VERIFY + listed("client_allowed_sans", ["p@example.org"]), "client", 200),
        (VERIFY + listed("client_allowed_sans", ["::1"]), "client", 200),
        (VERIFY + listed("client_allowed_sans", ["scraper.example"]), "nameless", 0),
        (VERIFY + listed("client_allowed_sans", ["client"]), "client", 0),  # the common name is not an alternative name
        (VERIFY + listed("client_allowed_sans", ["scraper.example"]), "stranger", 0),
        (GIVEN + listed("client_allowed_sans", ["scraper.example"]), None, 0),
        (GIVEN + listed("client_allowed_sans", ["scraper.example"]), "client", 200),
        (PAIR + AUTH.format("RequireAndVerifyClientCert") + "  client_ca: |\nCACERT", "client", 200),
        (PAIR + AUTH.format("RequireAndVerifyClientCert") + "  client_ca: |\nCACERT", "stranger", 0),
    ],
)
def test_client_certificates(folder, serve, config, client, status):
    """Clients that get the page, and clients that are refused: counted as `tls`."""
    served = serve(config)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert served.ask(context=client_context(folder, client, maximum_version=version))[0] == status
    assert served.stop()["tls"] == (0 if status else 2)


def handshake(folder, served, ciphers=None, curve=None, **settings):
    """(version, cipher) of a connection; None if the handshake failed."""
    context = client_context(folder, **settings)
    if ciphers:
        context.set_ciphers(ciphers)
    if curve:
        context.set_ecdh_curve(curve)
    try:
        with (
            socket.create_connection(("127.0.0.1", served.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            return client.version(), client.cipher()[0]
    except OSError:
        return None


def test_versions_ciphers_and_curves(folder, serve):
    """Anything that the file does not list is refused; the file decides whose order of preference applies."""
    tls12 = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    served = serve(PAIR)
    assert handshake(folder, served)[0] == "TLSv1.3"
    assert handshake(folder, served, **tls12)[0] == "TLSv1.2"
    served = serve(PAIR + "  min_version: TLS13\n")
    assert handshake(folder, served, **tls12) is None
    served = serve(PAIR + "  max_version: TLS12\n")
    assert handshake(folder, served)[0] == "TLSv1.2"
    two = ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
    mine, theirs = (CIPHERS[name] for name in two)
    for order, chosen in (("", mine), ("  prefer_server_cipher_suites: false\n", theirs)):
        served = serve(PAIR + listed("cipher_suites", two) + order)
        assert handshake(folder, served, f"{theirs}:{mine}", **tls12)[1] == chosen
        assert handshake(folder, served, "ECDHE-ECDSA-AES256-SHA", **tls12) is None
    served = serve(PAIR + listed("cipher_suites", CIPHERS_13) + "http_server_config: {http2: false}\n")
    assert handshake(folder, served, **tls12) is None
    served = serve(PAIR + listed("curve_preferences", ["CurveP521"]))
    assert handshake(folder, served, curve="secp521r1")
    assert handshake(folder, served, curve="prime256v1") is None


def test_inline_certificate(folder, serve):
    """Certificate and key as text in the file."""
    served = serve("tls_server_config:\n  cert: |\nCERT  key: |\nKEY")
    assert served.ask(context=client_context(folder))[0] == 200


def test_a_flood_of_handshakes(folder, serve):
    """Several clients complete one handshake after the other and send no request."""
    served = serve(PAIR)
    context = client_context(folder)

    def handshakes():
        for _ in range(200):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", served.port), 10) as plain,
                context.wrap_socket(plain, server_hostname="localhost"),
            ):
                pass

    clients = [multiprocessing.get_context("fork").Process(target=handshakes) for _ in range(4)]
    with Scraper(served.port, context=context) as scraper:
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
            assert client.exitcode == 0
    assert scraper.well_served(), scraper.scrapes


def test_headers_are_on_every_answer(serve):
    """On pages, on refusals, and on 404."""
    served = serve("http_server_config: {headers: {X-Frame-Options: deny, Strict-Transport-Security: max-age=1}}\n")
    for path in (b"/metrics", b"/", b"/nothing"):
        answer = served.ask(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)[1]
        assert b"\r\nX-Frame-Options: deny\r\n" in answer
        assert b"\r\nStrict-Transport-Security: max-age=1\r\n" in answer


def test_rate_limit(serve):
    """A burst, then one per interval; the others get 429."""
    served = serve("rate_limit: {interval: 1h, burst: 3}\n")
    assert [served.ask()[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    assert served.stop()["busy"] == 2
    assert serve("rate_limit: {interval: 1s, burst: 0}\n").ask()[0] == 429


@pytest.mark.parametrize("name", ["silent", "half a request", "TLS garbage", "hello"])
def test_tls_under_attack(folder, serve, name):
    """Plain text, garbage, and unfinished handshakes: a scraper with TLS is answered within a second."""
    hello = Attack(300, CLIENT_HELLO)
    what = hello if name == "hello" else Attack(min(ATTACKS[name].connections, 800), ATTACKS[name].payload)
    served = serve(PAIR)
    context = client_context(folder)
    assert served.ask(context=context)[0] == 200
    before = served.rss_mb()
    with Scraper(served.port, context=context) as scraper:
        opened = launch(served.port, what)
        time.sleep(1)
    for client in opened:
        client.close()
    assert scraper.well_served(), scraper.scrapes
    assert served.rss_mb() - before < 24


def test_a_handshake_has_five_seconds(folder, serve):
    """After five seconds of silence, the connection ends."""
    served = serve(PAIR)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), 20) as client:
        client.sendall(CLIENT_HELLO[:20])
        assert client.recv(100) == b""
    assert 4 < time.monotonic() - begin < 15


def test_who_reads_nothing_over_tls(folder, serve):
    """A page of 4 MB is in memory once for 40 such clients, which make room for one that reads."""
    served = serve(PAIR, 4_000_000)
    context = client_context(folder)
    assert served.ask(SCRAPE, context=context)[0] == 200
    before, opened = served.rss_mb(), []
    for _ in range(70):
        plain = socket.create_connection(("127.0.0.1", served.port), 10)
        opened.append(context.wrap_socket(plain, server_hostname="localhost"))
        opened[-1].sendall(GET)
    status, answer = served.ask(context=context)
    assert status == 200
    assert len(answer) > 3_000_000
    assert served.rss_mb() - before < 130
    for client in opened:
        client.close()


def basic(user, password):
    given = base64.b64encode(f"{user}:{password}".encode())
    return SCRAPE[:-2] + b"Authorization: Basic " + given + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (SCRAPE, 401),
        (basic("scraper", "right"), 200),
        (basic("scraper", "wrong"), 401),
        (basic("scraper", ""), 401),
        (basic("nobody", "right"), 401),
        (basic("", ""), 401),
        (basic("scraper", "right" + "\0"), 401),
        (basic("scraper", "a" * 5000), 401),
        (basic("scraper", "right").replace(b"Basic", b"basic"), 200),
        (basic("scraper", "right").replace(b"Basic", b"Bearer"), 401),
        (SCRAPE[:-2] + b"Authorization: Basic \xff\xfe\r\n\r\n", 401),
        (SCRAPE[:-2] + b"Authorization: Basic %%%\r\n\r\n", 401),
        (SCRAPE[:-2] + b"Authorization: Basic c2NyYXBlcg==\r\n\r\n", 401),
        (SCRAPE[:-2] + b"Authorization:\r\n\r\n", 401),
        (basic("scraper", "right").replace(b"/metrics", b"/nothing"), 404),
        (GET.replace(b"/metrics", b"/-/healthy"), 401),
        (GET.replace(b"/metrics", b"/nothing"), 401),
    ],
)
def test_passwords(serve, request_, status):
    """Without the right password, a client does not even learn which pages exist."""
    served = serve(f"basic_auth_users: {{scraper: '{HASH}'}}\n")
    for _ in range(2):  # cached passwords change nothing
        got, answer = served.ask(request_)
        assert got == status
        assert (b"WWW-Authenticate: Basic realm=" in answer) == (status == 401)


def test_no_way_round_the_password_by_what_was_remembered(serve):
    """A user whose name ends in a hash, and a password that begins with one (CVE-2022-46146)."""
    served = serve(f"basic_auth_users: {{scraper: '{HASH}'}}\n")
    assert served.ask(basic("scraper", "right"))[0] == 200
    assert served.ask(basic(f"scraper{HASH}", "right"))[0] == 401
    assert served.ask(basic("scraper", f"{HASH}right"))[0] == 401


def test_a_flood_of_wrong_passwords(serve):
    """A thousand, for users that exist or not: known users are answered within a second, and so is a new one."""
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    served = serve(f"basic_auth_users: {{scraper: '{slow}', second: '{slow}'}}\n")
    assert served.ask(basic("scraper", "right"))[0] == 200
    with Scraper(served.port, basic("scraper", "right")) as scraper:
        opened = []
        for number in range(1000):
            user = ("scraper", "second", f"nobody{number}")[number % 3]
            opened += launch(served.port, Attack(1, basic(user, f"wrong{number}"), reads=True))
            if number == 500:  # not seen before, from another address
                assert served.ask(basic("second", "right"), source="127.0.0.2")[0] == 200
        time.sleep(0.5)
    for client in opened:
        client.close()
    assert scraper.well_served(), scraper.scrapes
    refused = served.stop()
    assert refused["busy"] > 500


def test_a_user_who_does_not_exist_takes_as_long(serve):
    """As long as an existing user with a wrong password."""
    slow = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    served = serve(f"basic_auth_users: {{scraper: '{slow}'}}\n")

    def fastest_s(user):
        seconds = []
        for number in range(5):
            begin = time.monotonic()
            assert served.ask(basic(user, f"wrong{number}"))[0] == 401
            seconds.append(time.monotonic() - begin)
        return min(seconds)

    there, not_there = fastest_s("scraper"), fastest_s("nobody")
    assert 0.5 < there / not_there < 2


def test_a_change_holds_at_once(folder, serve):
    """No change needs a signal. A broken file changes nothing; the error is logged once, and again after SIGHUP."""
    served = serve(f"basic_auth_users: {{scraper: '{HASH}'}}\n")
    assert served.ask(basic("scraper", "right"))[0] == 200
    changed = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
    served.config.write_text(f"basic_auth_users: {{scraper: '{changed}'}}\n")
    assert served.ask(basic("scraper", "right"))[0] == 401
    assert served.ask(basic("scraper", "other"))[0] == 200
    served.config.write_text("basic_auth_users: {scraper: broken}\n")
    for _ in range(3):
        assert served.ask(basic("scraper", "other"))[0] == 200
    line = f"--web.config.file={served.config}: basic_auth_users.scraper is not a bcrypt hash"
    wait_for(lambda: line in served.said, "the line")
    assert served.said.count(line) == 1
    served.process.send_signal(signal.SIGHUP)
    wait_for(lambda: served.said.count(line) == 2, "the line again")
    assert served.ask(basic("scraper", "wrong"))[0] == 401
    served.config.unlink()
    assert served.ask(basic("scraper", "other"))[0] == 200
    wait_for(lambda: "No such file or directory; the previous configuration stays in use" in served.said, "the line")
    served.config.write_text(PAIR)
    assert served.ask(context=client_context(folder))[0] == 200
    assert served.ask()[0] == 0
    served.config.write_text("")
    assert served.ask()[0] == 200


def test_a_new_certificate_needs_no_signal(folder, serve, tmp_path):
    """The files are replaced one by one: while certificate and key do not match, the former pair stays in use."""
    for name in ("server.crt", "server.key"):
        shutil.copy(folder / name, tmp_path)
    served = serve(f"tls_server_config: {{cert_file: {tmp_path}/server.crt, key_file: {tmp_path}/server.key}}\n")

    def serial():
        with (
            socket.create_connection(("127.0.0.1", served.port), 10) as plain,
            client_context(folder).wrap_socket(plain, server_hostname="localhost") as client,
        ):
            return client.getpeercert()["serialNumber"]

    former = serial()
    certificates.issue(folder, "renewed", "DNS:localhost")
    shutil.copy(folder / "renewed.crt", tmp_path / "server.crt")
    assert serial() == former
    shutil.copy(folder / "renewed.key", tmp_path / "server.key")
    assert serial() != former
    wait_for(lambda: "the previous configuration stays in use" in served.said, "the line")
