"""The web configuration follows its files while the daemon runs."""

import logging
import os
import ssl

import pytest

from killsnoopd.web.config_file import WebConfigFile

pytest.importorskip("yaml")
pytest.importorskip("bcrypt")

from web_files import HASH, PAIR, write  # it needs bcrypt

USERS = f"basic_auth_users: {{alice: '{HASH}'}}\n"


def test_no_file():
    """Plain HTTP, for everybody."""
    file = WebConfigFile(None)
    file.reload()
    assert (file.fresh().users, file.tls(), file.admits(None)) == ({}, None, True)


def test_a_change_needs_no_signal(tmp_path, caplog):
    """Even if size and time stay the same."""
    caplog.set_level(logging.INFO, "killsnoopd")
    path = tmp_path / "web.yml"
    path.write_text("rate_limit: {interval: 1s, burst: 1}\n")
    file = WebConfigFile(path)
    assert file.fresh().rate == (1.0, 1)
    assert caplog.messages == []
    was = path.stat()
    new = tmp_path / "new.yml"
    new.write_text("rate_limit: {interval: 1s, burst: 2}\n")
    os.utime(new, ns=(was.st_atime_ns, was.st_mtime_ns))
    new.rename(path)
    assert file.fresh().rate == (1.0, 2)
    assert caplog.messages == [f"reloaded {path}"]


def test_a_file_that_becomes_wrong(tmp_path, caplog):
    """Each error is logged once, and the previous configuration stays in use until the file is right again."""
    caplog.set_level(logging.INFO, "killsnoopd")
    path = tmp_path / "web.yml"
    path.write_text(USERS)
    file = WebConfigFile(path)
    path.write_text("basic_auth_users: 7\n")
    assert [set(file.fresh().users) for _ in range(3)] == [{b"alice"}] * 3
    (message,) = caplog.messages
    assert message.startswith(f"--web.config.file={path}: basic_auth_users ")
    assert message.endswith("; the previous configuration stays in use")
    path.unlink()
    assert set(file.fresh().users) == {b"alice"}
    assert caplog.messages[1:] == [
        f"--web.config.file={path}: No such file or directory; the previous configuration stays in use"
    ]
    path.write_text("{}\n")
    assert file.fresh().users == {}


def test_the_files_that_it_names(folder, tmp_path):
    """A new certificate is used for the next connection; one that is half written is not."""
    for name in ("server.crt", "server.key"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "web.yml"
    write(tmp_path, path, PAIR)
    file = WebConfigFile(path)
    first = file.tls()
    assert isinstance(first, ssl.SSLContext)
    assert file.tls() is first
    certificate = (tmp_path / "server.crt").read_bytes()
    (tmp_path / "server.crt").write_bytes(certificate[:100])
    assert file.tls() is first
    (tmp_path / "server.crt").write_bytes(certificate)
    assert file.tls() is not first
