"""Files for --web.config.file, and their parts; needs bcrypt."""

import re

import bcrypt

HASH = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
PAIR = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
AUTH = "  client_auth_type: {}\n"
CA = "  client_ca_file: ca.crt\n"


def indented(path):
    return "".join(f"    {line}\n" for line in path.read_text().splitlines())


def listed(key, values):
    return f"  {key}:\n" + "".join(f"  - {value}\n" for value in values)


def write(folder, path, text):
    if isinstance(text, str):
        for name, file in (("CACERT", "ca.crt"), ("CERT", "server.crt"), ("KEY", "server.key")):
            text = re.sub(rf"\b{name}(?=  key|  client_auth|$)", lambda _, file=file: indented(folder / file), text)
        text = text.encode()
    path.write_bytes(text)
    return path
