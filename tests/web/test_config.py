"""--web.config.file accepts and refuses the same files as Prometheus' exporters."""

import subprocess
import sys

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.web import config
from killsnoopd.web.config import CIPHERS, CIPHERS_13, CURVES
from killsnoopd.web.config_file import WebConfigFile

yaml = pytest.importorskip("yaml")
bcrypt = pytest.importorskip("bcrypt")

from web_files import AUTH, CA, HASH, PAIR, listed, write  # noqa: E402 # it needs bcrypt

# Files like those of exporter-toolkit's own tests, by name, with its verdict, and ours in the two cases where it
# differs. None: accepted; else a part of the error.
LIKE_THE_TOOLKIT = {
    "somefile": (None, "No such file"),
    "empty": ("", None),
    "junk": ("hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2vYdFbiKqr\n", "is not a mapping"),
    "junk_key": ("tls_server_config:\n  cert_filse: server.crt\n", "tls_server_config.cert_filse is unknown"),
    "certPath_empty": ("tls_server_config:\n  cert_file: ''\n  key_file: server.key\n", "neither cert_file nor cert"),
    "cert_empty": ("tls_server_config:\n  cert: ''\n  key_file: server.key\n", "neither cert_file nor cert"),
    "keyPath_empty": ("tls_server_config:\n  cert_file: server.crt\n  key_file: ''\n", "neither key_file nor key"),
    "key_empty": ("tls_server_config:\n  cert_file: server.crt\n  key: ''\n", "neither key_file nor key"),
    "certPath_keyPath_empty": ("tls_server_config:\n  cert_file: ''\n  key_file: ''\n  client_auth_type: x\n", "is not one of"),
    "certPath_invalid": ("tls_server_config:\n  cert_file: somefile\n  key_file: server.key\n", "somefile: No such file"),
    "keyPath_invalid": ("tls_server_config:\n  cert_file: server.crt\n  key_file: somefile\n", "somefile: No such file"),
    "certPath_keyPath_invalid": ("tls_server_config:\n  cert_file: somefile\n  key_file: somefile\n", "somefile: No such"),
    "noAuth.bad (a CA, no policy)": (PAIR + CA, "without a client_auth_type"),
    "clientCAs_invalid": (PAIR + "  client_ca_file: somefile\n", "somefile: No such file"),
    "clientCAs_missing": (PAIR + AUTH.format("RequireAndVerifyClientCert"), None),
    "good.blocking": (PAIR + AUTH.format("RequireAndVerifyClientCert"), None),
    "user_list_invalid": (PAIR + "basic_auth_users:\n  john: doe\n", "basic_auth_users.john is not a bcrypt hash"),
    "inventedCiphers": (PAIR + listed("cipher_suites", ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048"]), "SHA2048' is not one of"),
    "inventedCurves": (PAIR + listed("curve_preferences", ["CurveP257"]), "CurveP257' is not one of"),
    "wrongTLSVersion": (PAIR + "  min_version: TLS111\n", "TLS111' is not one of"),
    "noAuth.good": (PAIR + AUTH.format("VerifyClientCertIfGiven"), None),
    "tlsInline": ("tls_server_config:\n  cert: |\nCERT  key: |\nKEY" + AUTH.format("VerifyClientCertIfGiven"), None),
    "allCiphers": (PAIR + listed("cipher_suites", [*CIPHERS, *CIPHERS_13]), None),
    "someCiphers": (PAIR + listed("cipher_suites", list(CIPHERS)[:2]) + "  min_version: TLS12\n  max_version: TLS12\n", None),
    "someCiphers_noOrder": (PAIR + listed("cipher_suites", list(CIPHERS)[:2]) + "  prefer_server_cipher_suites: false\n", None),
    "allCurves": (PAIR + listed("curve_preferences", CURVES), None),
    "someCurves": (PAIR + listed("curve_preferences", ["CurveP521"]) + "  min_version: TLS13\n", None),
    "noHTTP2": (PAIR + listed("cipher_suites", list(CIPHERS)[1:2]) + "  max_version: TLS12\nhttp_server_config:\n  http2: false\n", None),
    "noHTTP2Cipher": (PAIR + listed("cipher_suites", list(CIPHERS)[1:2]) + "  max_version: TLS12\n", "HTTP/2 requires"),
    "headers": (
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-Content-Type-Options: nosniff\n    X-XSS-Protection: 1\n"
        "    Strict-Transport-Security: max-age=31536000\n    Content-Security-Policy: \"default-src 'self' *.example.org\"\n",
        None,
    ),
    "headers_content_type_options": ("http_server_config:\n  headers:\n    X-Content-Type-Options: sniff\n", "'sniff' is not one of nosniff"),
    "headers_frame_options": ("http_server_config:\n  headers:\n    X-Frame-Options: foo\n", "'foo' is not one of deny, sameorigin"),
    "headers_extra_header": ("http_server_config:\n  headers:\n    Content-Type: foo\n", "'Content-Type' is not one of"),
    "requireandverifyclientcert": (PAIR + AUTH.format("RequireAndVerifyClientCert") + CA, None),
    "client_san": (PAIR + AUTH.format("RequireAndVerifyClientCert") + CA + listed("client_allowed_sans", ["one", "test3"]), None),
    "rate_limiter_nonblocking": ("rate_limit:\n  interval: 0\n  burst: 0\n", None),
    "rate_limiter_one_second": ('rate_limit:\n  interval: "1s"\n  burst: 0\n', None),
    "users": (PAIR + f"basic_auth_users:\n  alice: {HASH}\n  dave: {HASH}\n", None),
    "users_noTLS": (f"basic_auth_users:\n  alice: {HASH}\n", None),
    # The files above that exporter-toolkit accepts.
    "requireanyclientcert": (PAIR + AUTH.format("RequireAnyClientCert"), "is not supported, because Python's TLS"),
    "requireanyclientcertkeyinline": (
        "tls_server_config:\n  cert_file: server.crt\n  key: |\nKEY" + AUTH.format("RequireAnyClientCert"), "is not supported, because Python's TLS",
    ),
}  # fmt: skip
MORE = {
    "all comments": ("# nothing\n", None),
    "null sections": ("tls_server_config:\nhttp_server_config: ~\nbasic_auth_users: null\nrate_limit: {}\n", None),
    "http2": ("http_server_config:\n  http2: true\n", None),
    "no boolean": ("http_server_config:\n  http2: perhaps\n", "neither true nor false"),
    "unknown key": ("tls:\n  cert_file: x\n", "tls is unknown"),
    "unknown key of http": ("http_server_config:\n  http3: true\n", "http_server_config.http3 is unknown"),
    "unknown key of the rate": ("rate_limit:\n  rate: 1\n", "rate_limit.rate is unknown"),
    "a key twice": (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "line 3: duplicate key"),
    "no YAML": ("a: [\n", "not valid YAML"),
    "a tag": ("!!python/object/apply:os.system ['false']\n", "is not a mapping"),
    "no UTF-8": (b"\xff\xfe\xff", "codec can't decode"),
    "a list": ("- a\n", "is not a mapping"),
    "only a version: no TLS": ("tls_server_config:\n  min_version: TLS13\n", None),
    "only a policy": ("tls_server_config:\n  client_auth_type: NoClientCert\n", "neither cert_file nor cert"),
    "RequestClientCert": (PAIR + AUTH.format("RequestClientCert"), None),
    "RequireClientCert": (PAIR + AUTH.format("RequireClientCert"), "is not supported, because Python's TLS"),
    "names of nobody": (PAIR + listed("client_allowed_sans", ["a"]), "client_allowed_sans has no effect"),
    "names, unverified": (PAIR + AUTH.format("RequestClientCert") + listed("client_allowed_sans", ["a"]), "has no effect"),
    "a CA that is none": (PAIR + AUTH.format("RequireAndVerifyClientCert") + "  client_ca_file: server.key\n", "contains no PEM certificate"),
    "an empty CA": (PAIR + AUTH.format("RequireAndVerifyClientCert") + "  client_ca_file: /dev/null\n", "contains no PEM certificate"),
    "another's key": ("tls_server_config:\n  cert_file: server.crt\n  key_file: client.key\n", "are not a PEM certificate and its unencrypted key"),
    "a key as certificate": ("tls_server_config:\n  cert_file: server.key\n  key_file: server.key\n", "are not a PEM certificate and its unencrypted key"),
    "upside down": (PAIR + "  min_version: TLS13\n  max_version: TLS12\n", "max_version is below min_version"),
    "ciphers of 1.3 under 1.2": (
        PAIR + listed("cipher_suites", CIPHERS_13) + "  max_version: TLS12\nhttp_server_config: {http2: false}\n", "max_version is below",
    ),
    "TLS 1.0": (PAIR + "  min_version: TLS10\n", None),
    "a duration": ("rate_limit: {interval: 1m30.5s, burst: 3}\n", None),
    "no duration": ("rate_limit: {interval: 1 day}\n", "is not a duration"),
    "a negative burst": ("rate_limit: {interval: 1s, burst: -1}\n", "is not a whole number"),
    "a header of two lines": ('http_server_config: {headers: {X-XSS-Protection: "1\\r\\nX-Evil: 1"}}\n', "write one line of printable characters"),
    "bcrypt of old": ("basic_auth_users: {a: " + HASH.replace("$2b$", "$2$") + "}\n", "is not a bcrypt hash"),
    "bcrypt of PHP": ("basic_auth_users: {a: " + HASH.replace("$2b$", "$2y$") + "}\n", None),
    "bcrypt, cut": ("basic_auth_users: {a: " + HASH[:-1] + "}\n", "is not a bcrypt hash"),
    "an inline CA": (PAIR + AUTH.format("RequireAndVerifyClientCert") + "  client_ca: |\nCACERT", None),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LIKE_THE_TOOLKIT, *MORE])
def test_accepted_or_refused(folder, tmp_path, name):
    """At start: one line with the file, the error and what to do; exit code 78."""
    text, why = (LIKE_THE_TOOLKIT | MORE)[name]
    path = folder / f"{name.replace(' ', '_').replace('/', '_')}.yml"
    if text is not None:
        write(folder, path, text)
    if why is None:
        WebConfigFile(path)
        return
    with pytest.raises(Failure) as refused:
        WebConfigFile(path)
    assert refused.value.exit_code == Exit.CONFIG
    line = str(refused.value)
    assert why in line
    assert line.startswith(f"--web.config.file={path}: ")
    assert line.endswith("; fix it or remove the flag")
    assert "\n" not in line


def test_what_is_read():
    """Everything that a file can contain."""
    read = config.parse(
        "http_server_config: {headers: {X-XSS-Protection: 1, Content-Security-Policy: ''}}\n"
        f"basic_auth_users: {{'12': '{HASH}'}}\nrate_limit: {{interval: 1m30.5s, burst: 3}}\n",
        None,
    )
    assert read == config.WebConfig(None, {"X-XSS-Protection": "1"}, {b"12": HASH.encode()}, (90.5, 3))
    assert config.parse("rate_limit: {interval: 5000000}", None).rate == (0.005, 0)
    assert HASH not in repr(read)


@pytest.mark.parametrize(
    ("module", "config", "says"),
    [
        ("yaml", "", "--web.config.file needs PyYAML: install python3-yaml (with pip: killsnoopd[web])"),
        (
            "bcrypt",
            f"basic_auth_users: {{a: '{HASH}'}}",
            "basic_auth_users needs bcrypt: install python3-bcrypt (with pip: killsnoopd[web])",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, module, config, says):
    """One line and exit code 78, before anything else is tried; without the flag neither package is needed."""
    (tmp_path / "web.yml").write_text(config)
    program = (
        f"import sys; sys.modules['{module}'] = None; from killsnoopd.daemon import main; sys.exit(main(sys.argv[1:]))"
    )
    flag = f"--web.config.file={tmp_path}/web.yml"
    result = subprocess.run([sys.executable, "-c", program, flag], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (78, f"killsnoopd: {says}\n")
    program = "import sys; from killsnoopd import daemon; sys.exit('yaml' in sys.modules or 'bcrypt' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_broken_file_at_start(tmp_path):
    """Before a port is opened or a probe loaded: one line, exit code 78."""
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: x}\n")
    command = [sys.executable, "-m", "killsnoopd", f"--web.config.file={tmp_path}/web.yml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 78
    assert result.stderr == (
        f"killsnoopd: --web.config.file={tmp_path}/web.yml: tls_server_config has neither key_file nor key; "
        "fix it or remove the flag\n"
    )
