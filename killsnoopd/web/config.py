"""Parses --web.config.file: TLS, users and headers, in the format of exporter-toolkit.

Source: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. It accepts what
exporter-toolkit accepts, except for a few things that Python's TLS cannot do (tls.py), and rejects what that rejects.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from killsnoopd.failure import Exit, Failure

VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
CURVES = MappingProxyType(
    {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
)
# The cipher suites of TLS 1.2 that Go considers secure: Go's names to OpenSSL's.
CIPHERS = MappingProxyType(
    {
        f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}"
        for key in ("ECDSA", "RSA")
        for go, openssl in (
            ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
            ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
            ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
            ("AES_128_CBC_SHA", "AES128-SHA"),
            ("AES_256_CBC_SHA", "AES256-SHA"),
        )
    }
)
# TLS 1.3. Go accepts these in the list and ignores them: the suites of TLS 1.3 cannot be configured.
CIPHERS_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CLIENT_AUTH = MappingProxyType(
    {
        "NoClientCert": "NoClientCert",
        "RequestClientCert": "RequestClientCert",
        "RequireAnyClientCert": "RequireAnyClientCert",
        "VerifyClientCertIfGiven": "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert": "RequireAndVerifyClientCert",
        "RequireClientCert": "RequireAnyClientCert",  # the former name
        "": "NoClientCert",
    }
)
HEADERS: Mapping[str, tuple[str, ...]] = MappingProxyType(  # to the allowed values; empty: any
    {
        "Content-Security-Policy": (),
        "Strict-Transport-Security": (),
        "X-Content-Type-Options": ("nosniff",),
        "X-Frame-Options": ("deny", "sameorigin"),
        "X-XSS-Protection": (),
    }
)
_TRUE, _FALSE = ("true", "yes", "on", "y"), ("false", "no", "off", "n")
_UNITS_S = MappingProxyType({"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0})


@dataclass(frozen=True)
class Tls:
    """tls_server_config, with the contents of the files that it names."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    client_auth: str
    client_allowed_sans: frozenset[str]
    min_version: str
    max_version: str
    cipher_suites: tuple[str, ...]  # Go's names; empty: OpenSSL's choice
    prefer_server_cipher_suites: bool
    curve_preferences: tuple[str, ...]  # Go's names; empty: OpenSSL's choice


@dataclass(frozen=True)
class WebConfig:
    """The whole file."""

    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)  # name to bcrypt hash
    rate: tuple[float, int] | None = None  # token bucket: seconds per request, burst


class _Section:
    """A mapping in the file. Each key is taken once; end() rejects the keys that are left."""

    def __init__(self, name: str, value: Any) -> None:
        if value in ("", "~", "null", None):
            value = {}
        if not isinstance(value, dict):
            raise ValueError(f"{name or 'the file'} is not a mapping")
        self._name, self._values = name, dict(value)

    def path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def section(self, key: str) -> "_Section":
        return _Section(self.path(key), self._values.pop(key, None))

    def text(self, key: str, default: str = "") -> str:
        value = self._values.pop(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{self.path(key)} is not a string")
        return default if value in ("~", "null") else value

    def choice(self, key: str, choices: Mapping[str, str] | tuple[str, ...], default: str) -> str:
        return self._one_of(self.path(key), self.text(key, default) or default, choices)

    def flag(self, key: str) -> bool:
        """A boolean; True by default."""
        value = self.text(key, "true").lower()
        if value not in _TRUE + _FALSE:
            raise ValueError(f"{self.path(key)}: {value!r} is neither true nor false")
        return value in _TRUE

    def texts(self, key: str, choices: Mapping[str, str] | tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self._values.pop(key, [])
        if value in ("", "~", "null"):
            value = []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{self.path(key)} is not a list of strings")
        if choices is not None:
            value = [self._one_of(self.path(key), item, choices) for item in value]
        return tuple(value)

    def rest(self) -> dict[str, str]:
        """All remaining keys, whose names the user chooses."""
        return {key: self.text(key) for key in list(self._values)}

    def end(self) -> None:
        if self._values:
            raise ValueError(f"{self.path(next(iter(self._values)))} is unknown")

    @staticmethod
    def _one_of(path: str, value: str, choices: Mapping[str, str] | tuple[str, ...]) -> str:
        if value not in choices:
            raise ValueError(f"{path}: {value!r} is not one of {', '.join(name for name in choices if name)}")
        return value


def parse(text: str, folder: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> WebConfig:
    """Parse a file; relative paths in it are relative to `folder`. Raises ValueError, OSError."""
    top = _Section("", _yaml(text))
    tls = _tls(top.section("tls_server_config"), folder, read)
    http = top.section("http_server_config")
    http2 = http.flag("http2")  # HTTP/2 is not served, but Go checks the cipher suites for it
    headers = http.section("headers").rest()
    http.end()
    rate = top.section("rate_limit")
    interval_s, burst = _duration_s(rate.text("interval", "0"), rate.path("interval")), rate.text("burst", "0")
    rate.end()
    users = top.section("basic_auth_users").rest()
    top.end()
    for name, value in headers.items():
        if name not in HEADERS:
            raise ValueError(f"http_server_config.headers: {name!r} is not one of {', '.join(HEADERS)}")
        if HEADERS[name] and value not in HEADERS[name]:
            raise ValueError(f"http_server_config.headers.{name}: {value!r} is not one of {', '.join(HEADERS[name])}")
        if not value.isprintable():
            raise ValueError(f"http_server_config.headers.{name}: write one line of printable characters")
    if not re.fullmatch(r"\d{1,9}", burst):
        raise ValueError(f"rate_limit.burst: {burst!r} is not a whole number")
    for name, hashed in users.items():
        if not re.fullmatch(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}", hashed):
            raise ValueError(f"basic_auth_users.{name} is not a bcrypt hash: create one with htpasswd -nBC 10 ''")
    if tls and http2 and tls.cipher_suites and tls.min_version != "TLS13":
        wanted = [f"TLS_ECDHE_{key}_WITH_AES_128_GCM_SHA256" for key in ("RSA", "ECDSA")]
        if not set(wanted) & set(tls.cipher_suites):
            raise ValueError(
                f"tls_server_config.cipher_suites: HTTP/2 requires {' or '.join(wanted)}: add one, or set http2: false"
            )
    return WebConfig(
        tls=tls,
        headers={name: value for name, value in headers.items() if value},
        users={name.encode(): hashed.encode() for name, hashed in users.items()},
        rate=(interval_s, int(burst)) if interval_s > 0 else None,
    )


def _tls(section: _Section, folder: Path, read: Callable[[Path], bytes]) -> Tls | None:
    """TLS, if the section names a certificate, a key, or anything about client certificates."""
    found: dict[str, bytes | None] = {}
    files: list[tuple[str, Path]] = []
    for name in ("cert", "key", "client_ca"):
        inline, file = section.text(name), section.text(f"{name}_file")
        found[name] = inline.encode() or None
        if file:  # a file takes precedence over inline text, as in exporter-toolkit
            files.append((name, folder / file))
    client_auth = section.choice("client_auth_type", CLIENT_AUTH, "")
    result = {
        "client_allowed_sans": frozenset(section.texts("client_allowed_sans")),
        "min_version": section.choice("min_version", VERSIONS, "TLS12"),
        "max_version": section.choice("max_version", VERSIONS, "TLS13"),
        "cipher_suites": section.texts("cipher_suites", (*CIPHERS, *CIPHERS_13)),
        "prefer_server_cipher_suites": section.flag("prefer_server_cipher_suites"),
        "curve_preferences": section.texts("curve_preferences", CURVES),
    }
    section.end()
    if not (files or any(found.values()) or client_auth):
        return None
    for name in ("cert", "key"):
        if not found[name] and name not in dict(files):
            raise ValueError(f"tls_server_config has neither {name}_file nor {name}")
    for name, path in files:
        try:
            found[name] = read(path)
        except OSError as error:
            raise ValueError(f"tls_server_config.{name}_file: {path}: {error.strerror}") from None
    if found["client_ca"] is not None and CLIENT_AUTH[client_auth] == "NoClientCert":
        raise ValueError(
            "tls_server_config.client_ca has no effect without a client_auth_type: add RequireAndVerifyClientCert"
        )
    return Tls(**found, client_auth=CLIENT_AUTH[client_auth], **result)  # type: ignore[arg-type]


def _duration_s(text: str, path: str) -> float:
    """A duration in Go's notation: 1s, 1m30s, 250ms; a bare number is nanoseconds."""
    if re.fullmatch(r"\d{1,18}", text):
        return int(text) / 1e9
    if not re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        raise ValueError(f"{path}: {text!r} is not a duration: write 1s or 250ms")
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", text))


def _yaml(text: str) -> Any:
    """Parse YAML. Scalars stay text; a duplicate key is an error."""
    try:
        import yaml
    except ImportError:
        raise Failure(
            Exit.CONFIG, "--web.config.file needs PyYAML: install python3-yaml (with pip: killsnoopd[web])"
        ) from None

    try:
        return _plain(yaml.compose(text, yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("not valid YAML: " + " ".join(str(error).split())) from None


def _plain(node: Any) -> Any:
    """A YAML node as a dict, a list or a string; None if it is empty."""
    if node is None or isinstance(node.value, str):
        return node and node.value
    if node.id == "sequence":
        return [_plain(item) for item in node.value]
    result: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key.value, str) or key.value in result:
            raise ValueError(f"line {key.start_mark.line + 1}: duplicate key, or a key that is not a string")
        result[key.value] = _plain(value)
    return result
