"""Turns tls_server_config into an SSLContext.

Differences from Go: Python cannot request a client certificate without verifying it. So RequireAnyClientCert is
refused, and RequestClientCert, which accepts everyone, does not request one. Of several curves (but not all), only the
first supported one is used. The result is never weaker than the file demands.
"""

import contextlib
import ipaddress
import os
import ssl
import warnings
from asyncio import BaseTransport
from collections.abc import Iterator

from killsnoopd.web.config import CIPHERS, CURVES, Tls

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def context(tls: Tls) -> ssl.SSLContext:
    """The context for new connections. Raises ValueError."""
    if tls.client_auth not in _VERIFY:
        raise ValueError(
            f"tls_server_config.client_auth_type: {tls.client_auth} is not supported, because Python's TLS "
            "verifies every client certificate: use RequireAndVerifyClientCert with a client_ca_file"
        )
    verify = _VERIFY[tls.client_auth]
    if tls.client_allowed_sans and verify == ssl.CERT_NONE:
        raise ValueError(
            f"tls_server_config.client_allowed_sans has no effect with client_auth_type {tls.client_auth}: "
            "use RequireAndVerifyClientCert with a client_ca_file"
        )
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _versions_and_ciphers(result, tls)
    if not tls.prefer_server_cipher_suites:
        result.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if tls.curve_preferences and set(tls.curve_preferences) != set(CURVES):
        _curve(result, tls.curve_preferences)
    _certificate(result, tls)
    if verify != ssl.CERT_NONE:
        if tls.client_ca is None:
            result.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        else:
            try:
                result.load_verify_locations(cadata=tls.client_ca.decode())
            except (ssl.SSLError, ValueError):
                raise ValueError("tls_server_config.client_ca_file contains no PEM certificate") from None
    result.verify_mode = verify
    return result


def admits(tls: Tls, transport: BaseTransport) -> bool:
    """Whether the verified client certificate has a name in client_allowed_sans; True if that list is empty."""
    if not tls.client_allowed_sans:
        return True
    certificate = transport.get_extra_info("peercert") or {}
    return not tls.client_allowed_sans.isdisjoint(_names(certificate.get("subjectAltName", ())))


def _names(alternatives: tuple[tuple[str, str], ...]) -> Iterator[str]:
    """Subject alternative names in Go's spelling."""
    for kind, name in alternatives:
        if kind in ("DNS", "email", "URI"):
            yield name
        elif kind == "IP Address":
            with contextlib.suppress(ValueError):
                yield str(ipaddress.ip_address(name))


def _curve(result: ssl.SSLContext, preferences: tuple[str, ...]) -> None:
    """Set the first curve that is supported: Python can set only one, and with older OpenSSL functions not X25519."""
    for name in preferences:
        with contextlib.suppress(ssl.SSLError, ValueError):
            return result.set_ecdh_curve(CURVES[name])
    raise ValueError(
        f"tls_server_config.curve_preferences: Python's TLS cannot be limited to {' and '.join(preferences)}: "
        "add CurveP256 or remove the key"
    )


def _versions_and_ciphers(result: ssl.SSLContext, tls: Tls) -> None:
    lowest, highest = _VERSIONS[tls.min_version], _VERSIONS[tls.max_version]
    chosen = [CIPHERS[name] for name in tls.cipher_suites if name in CIPHERS]
    if chosen:
        result.set_ciphers(":".join(chosen))
    elif tls.cipher_suites:  # all are of TLS 1.3
        lowest = ssl.TLSVersion.TLSv1_3
    if lowest > highest:
        raise ValueError("tls_server_config: max_version is below min_version, or below what cipher_suites require")
    with warnings.catch_warnings():
        # Deprecated: TLS 1.0 and 1.1. OpenSSL's own policy may still forbid them.
        warnings.simplefilter("ignore", DeprecationWarning)
        result.minimum_version, result.maximum_version = lowest, highest


def _certificate(result: ssl.SSLContext, tls: Tls) -> None:
    """Load certificate and key. Python reads them only from files, so use one in memory."""
    fd = os.memfd_create("certificate")
    with open(fd, "wb") as file:  # noqa: PTH123 # closes the descriptor
        file.write(tls.cert + b"\n" + tls.key)
        file.flush()
        try:
            result.load_cert_chain(f"/proc/self/fd/{fd}", password="")
        except (ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise ValueError(
                f"tls_server_config: cert and key are not a PEM certificate and its unencrypted key ({why})"
            ) from None
