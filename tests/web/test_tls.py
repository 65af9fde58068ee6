"""From tls_server_config to an SSLContext; test_secured.py connects to it."""

import ssl

import pytest

from killsnoopd.web import config, tls
from killsnoopd.web.config import CIPHERS, CURVES

pytest.importorskip("yaml")
pytest.importorskip("bcrypt")

from web_files import PAIR, listed  # it needs bcrypt


def test_every_cipher_and_curve_is_openssls():
    """OpenSSL knows a name for each of Go's names."""
    for name in CIPHERS.values():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(name)
        assert [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"] == [name]
    for name in set(CURVES.values()) - {"X25519"}:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve(name)


def test_a_curve_that_python_cannot_set_alone(folder, monkeypatch):
    """The next curve is used instead, or the file is refused; never any curve."""
    chosen = []

    def set_ecdh_curve(_, name):
        if name == "X25519":
            raise ssl.SSLError("unknown group")
        chosen.append(name)

    monkeypatch.setattr(tls.ssl.SSLContext, "set_ecdh_curve", set_ecdh_curve)
    read = config.parse(PAIR + listed("curve_preferences", ["X25519", "CurveP384", "CurveP256"]), folder)
    tls.context(read.tls)
    assert chosen == ["secp384r1"]
    with pytest.raises(ValueError, match="cannot be limited to X25519"):
        tls.context(config.parse(PAIR + listed("curve_preferences", ["X25519"]), folder).tls)


def test_the_key_is_not_left_on_disk_nor_told(folder):
    """The key passes through memory only, and no repr shows it."""
    read = config.parse(PAIR, folder)
    tls.context(read.tls)
    assert "PRIVATE" not in repr(read)


class Connected:
    """A connection whose client has a certificate with these names, or none."""

    def __init__(self, *names):
        self.certificate = {"subjectAltName": names} if names else None

    def get_extra_info(self, name):
        return {"peercert": self.certificate}[name]


@pytest.mark.parametrize(
    ("names", "admitted"),
    [
        ((("DNS", "scraper.example"),), True),
        ((("DNS", "other.example"), ("email", "a@example")), True),
        ((("IP Address", "2001:DB8:0:0:0:0:0:1"),), True),
        ((("URI", "spiffe://example/scraper"),), True),
        ((("DNS", "other.example"),), False),
        ((("DirName", "scraper.example"),), False),
        ((("IP Address", "<invalid>"),), False),
        ((), False),
    ],
)
def test_admits(folder, names, admitted):
    """A certificate needs one of the names in the list, in Go's spelling; without a list, every client is admitted."""
    sans = ["scraper.example", "a@example", "2001:db8::1", "spiffe://example/scraper"]
    read = config.parse(PAIR + listed("client_allowed_sans", sans), folder)
    assert tls.admits(read.tls, Connected(*names)) is admitted
    assert tls.admits(config.parse(PAIR, folder).tls, Connected(*names))
