"""Errors of the bindings. The tests of the kernel call the rest of them."""

import re

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import libbpf


def test_version():
    assert re.fullmatch(r"v1\.\d+(\.\d+)?", libbpf.version())


def test_an_error_names_its_object(tmp_path):
    """As an OSError with the kernel's number: bpf(2) needs no privilege to say that there is no such file."""
    with pytest.raises(OSError, match="none") as error:
        libbpf.obj_get(str(tmp_path / "none"))
    assert error.value.filename == str(tmp_path / "none")


def test_no_library(monkeypatch):
    """One line, and what to install."""

    def missing(name, use_errno):
        raise OSError(f"{name}: cannot open shared object file")

    libbpf._lib.cache_clear()
    monkeypatch.setattr(libbpf.ctypes, "CDLL", missing)
    with pytest.raises(Failure, match=r"libbpf\.so\.1 is missing .*: install libbpf1") as failed:
        libbpf.version()
    assert failed.value.exit_code == Exit.CONFIG
