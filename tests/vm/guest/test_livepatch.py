"""A livepatch that replaces a function which the probe is attached to: calls of the new function are counted."""

import contextlib
import os
import platform
import subprocess
from pathlib import Path

import pytest
from conftest import kill_as, run, scrape
from senders import NO_SUCH_PID, send
from waiting import wait_for

# tkill(2) fails with EXDEV. Nothing else on the machine uses it: glibc has tgkill(2).
SOURCE = """
#include <linux/module.h>
#include <linux/livepatch.h>
static asmlinkage long refused(const struct pt_regs *regs) { return -EXDEV; }
static struct klp_func functions[] = { { .old_name = "__x64_sys_tkill", .new_func = refused }, {} };
static struct klp_object objects[] = { { .funcs = functions }, {} }; /* without a name: the kernel itself */
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };
static int __init enable(void) { return klp_enable_patch(&patch); }
static void __exit disabled(void) {}
module_init(enable);
module_exit(disabled);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""
PATCH = Path("/sys/kernel/livepatch/ks_patch")
WAYS = [
    pytest.param(way, marks=pytest.mark.flags(f"--probe.attach={way}")) for way in ("fexit", "kprobe", "tracepoint")
]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The livepatch, built for this kernel."""
    folder = tmp_path_factory.mktemp("patch")
    (folder / "ks_patch.c").write_text(SOURCE)
    (folder / "Makefile").write_text("obj-m := ks_patch.o\n")
    run("make", "-C", f"/lib/modules/{platform.release()}/build", f"M={folder}", "modules")
    return folder / "ks_patch.ko"


@contextlib.contextmanager
def patched(module):
    """The kernel, patched until the block ends."""
    run("insmod", str(module))
    try:
        wait_for(lambda: (PATCH / "transition").read_text() == "0\n", "all tasks to use the new function")
        yield
    finally:
        (PATCH / "enabled").write_text("0")
        wait_for(lambda: not PATCH.exists(), "all tasks to use the old function")
        wait_for(lambda: subprocess.run(["rmmod", "ks_patch"], check=False).returncode == 0, "its end")


def results(name):
    """{result: calls of tkill(2)}, counted of processes of this name."""
    start = f'killsnoop_signals_total{{comm="{name}",result="'
    return {line.split('"')[3]: value for line, value in scrape().items() if line.startswith(start)}


def call(name, expected):
    kill_as(name, lambda: os._exit(0 if send("tkill", NO_SUCH_PID, 15) == -expected else 1))


def way():
    (line,) = [line for line in scrape() if line.startswith('killsnoop_probe_hook_info{hook="tkill"')]
    return line.split('"')[3]


@pytest.mark.parametrize("attach", WAYS)
def test_patched_while_attached(module, attach):
    """The results that the new function returns are counted; then those of the old one again."""
    name = f"ks-lp-{attach[:5]}"
    assert way() == attach
    call(name, 3)
    with patched(module):
        call(name, 18)
        assert results(name) == {"ESRCH": 1, "EXDEV": 1}
    call(name, 3)
    assert results(name) == {"ESRCH": 2, "EXDEV": 1}


@pytest.mark.parametrize("attach", WAYS)
def test_patched_before(module, attach):
    """The probe attaches to the patched kernel in the same way, and stays when the patch goes."""
    name = f"ks-before-{attach[:5]}"
    with patched(module):
        run("systemctl", "stop", "killsnoopd")
        run("systemctl", "start", "killsnoopd")
        assert way() == attach
        call(name, 18)
        assert results(name) == {"EXDEV": 1}
    call(name, 3)
    assert results(name) == {"ESRCH": 1, "EXDEV": 1}
    assert {value for line, value in scrape().items() if line.startswith("killsnoop_probe_attached")} == {1}
