"""The real daemon's port: TLS and users with a real Prometheus, a failed reload, few open files, a flood."""

import shutil
import signal
import time

import bcrypt
import certificates
import pytest
from attacks import ATTACKS, SCRAPE, Attack, Scraper, ask, launch, room_for, trusting
from servers import Prometheus
from waiting import wait_for


def port(daemon):
    return int(daemon.url.rpartition(":")[2])


@pytest.fixture
def secured(start, tmp_path):
    """A daemon with TLS, a client CA and a user; its folder has the CA, `client` and `web.yml`."""
    folder = tmp_path / "web"
    folder.mkdir()
    certificates.ca(folder)
    certificates.issue(folder, "server", "DNS:localhost,IP:127.0.0.1")
    certificates.issue(folder, "client", "DNS:prometheus.example")
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(8)).decode()
    (folder / "web.yml").write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt,\n"
        "  client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [prometheus.example], min_version: TLS13}\n"
        f"basic_auth_users: {{prometheus: '{hashed}'}}\n"
    )
    return start(f"--web.config.file={folder}/web.yml"), folder


def test_prometheus_scrapes_with_a_certificate_and_a_password(secured, tmp_path):
    """up is 1; without the certificate, or with a wrong password, it is 0."""
    daemon, folder = secured
    tls = {"ca_file": f"{folder}/ca.crt", "cert_file": f"{folder}/client.crt", "key_file": f"{folder}/client.key"}
    jobs = {
        "right": {"tls_config": tls, "basic_auth": {"username": "prometheus", "password": "right"}},
        "wrong": {"tls_config": tls, "basic_auth": {"username": "prometheus", "password": "wrong"}},
        "bare": {"tls_config": {"ca_file": f"{folder}/ca.crt"}, "basic_auth": {"username": "prometheus", "password": "right"}},
    }  # fmt: skip
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": name, "scheme": "https", "static_configs": [{"targets": [f"127.0.0.1:{port(daemon)}"]}]} | how
            for name, how in jobs.items()
        ],
    }
    with Prometheus(tmp_path / "prometheus", config) as prometheus:
        wait_for(lambda: len(prometheus.query("count_over_time(up[1m]) >= 3")) == 3, "three scrapes of each")
        up = {dict(labels)["job"]: value for labels, value in prometheus.query("up").items()}
        signals = prometheus.query("sum(killsnoop_signals_total)")
    assert up == {"right": 1, "wrong": 0, "bare": 0}
    assert sum(signals.values()) > 0


def test_a_reload_that_goes_wrong(secured):
    """The former configuration stays, the error is logged, systemd gets READY again; then the file is fixed."""
    daemon, folder = secured
    context = trusting(folder / "ca.crt")
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    shutil.copy(folder / "web.yml", folder / "good.yml")
    (folder / "web.yml").write_text("tls_server_config: {cert_file: nowhere, key_file: server.key}\n")

    def reload():
        before = daemon.notifications().count("READY=1")
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: daemon.notifications().count("READY=1") > before, "READY=1 again")
        assert any(line.startswith("RELOADING=1") for line in daemon.notified)

    reload()
    assert (
        f"{folder}/nowhere: No such file or directory; the previous configuration stays in use"
        in daemon.stderr.read_text()
    )
    assert ask(port(daemon), context=context)[0] == 401
    (folder / "web.yml").write_text("")
    reload()
    assert ask(port(daemon))[0] == 200
    shutil.copy(folder / "good.yml", folder / "web.yml")
    assert ask(port(daemon))[0] == 0
    assert ask(port(daemon), context=context)[0] == 401


@pytest.mark.parametrize(
    ("name", "prefix"), [("half a request", ()), ("1,000 scrapes", ()), ("silent", ("prlimit", "--nofile=80:80"))]
)
def test_under_attack(start, name, prefix):
    """5,000 half requests, 1,000 scrapes, 2,000 connections at `ulimit -n 80`: scrapes are answered."""
    if not room_for(5000):
        pytest.skip("needs 5,100 open files (ulimit -Hn); CI=true makes this a failure")
    daemon = start(prefix=prefix)
    what = Attack(2000, b"") if prefix else ATTACKS[name]
    for _ in range(5):
        assert ask(port(daemon), SCRAPE)[0] == 200
    before = int(daemon.status("VmRSS"))
    with Scraper(port(daemon)) as scraper:
        opened = launch(port(daemon), what)
        time.sleep(1)
    for client in opened:
        client.close()
    assert scraper.well_served(), scraper.scrapes
    assert int(daemon.status("VmRSS")) - before < 16 * 1024
    wait_for(lambda: daemon.value("killsnoop_http_connections") == 1, "all others to be closed")
    if prefix:
        assert "raise the limit on open files" in daemon.stderr.read_text()
        assert daemon.value("killsnoop_http_connections_limit") < 64
