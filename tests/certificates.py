"""Certificates for tests, made by openssl: a CA, server and client certificates."""

import subprocess


def _openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _key(path):
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


def ca(folder, name="ca"):
    """Make the CA NAME.crt and NAME.key."""
    _key(folder / f"{name}.key")
    _openssl(
        "req",
        "-x509",
        "-new",
        "-key",
        folder / f"{name}.key",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",  # Python 3.13 verifies strictly (VERIFY_X509_STRICT)
        "-out",
        folder / f"{name}.crt",
    )
    return folder / f"{name}.crt"


def issue(folder, name, names, by="ca"):
    """Make NAME.crt and NAME.key, signed by a CA in the same folder, for names like DNS:localhost."""
    _key(folder / f"{name}.key")
    _openssl(
        "req", "-x509", "-new", "-key", folder / f"{name}.key", "-days", "2", "-subj", f"/CN={name}",
        "-CA", folder / f"{by}.crt", "-CAkey", folder / f"{by}.key",
        "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE", "-out", folder / f"{name}.crt",
    )  # fmt: skip
    return folder / f"{name}.crt"
