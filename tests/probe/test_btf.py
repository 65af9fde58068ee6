"""Offsets of the fields that the probe reads, from BTF of kernels that are not at hand."""

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import btf


def offsets(without=(), renamed=(), rss_bytes=160):
    """A kernel whose fields are at 8, 16, 24, ... in the order of the loader's table."""
    found = {"file": {"f_path": 8}, "path": {"dentry": 8}, "qstr": {"len": 4, "name": 8}, "ns_common": {"inum": 4}}
    for number, (_, owner, *fields) in enumerate(btf.FIELDS + btf.OPTIONAL_FIELDS, 1):
        name = fields[-1] if owner in renamed else fields[0]
        if name not in without:
            found.setdefault(owner, {})[name] = 8 * number
    found["user_namespace"]["ns"] = 320
    found["percpu_counter"] = {"count": 8, "": 40}
    if rss_bytes and "rss_stat" in found["mm_struct"]:
        found["mm_struct"]["after"] = found["mm_struct"]["rss_stat"] + rss_bytes
    found["dentry"] |= {"d_name": 32, "d_op": found["dentry"].get("d_shortname", found["dentry"].get("d_iname")) + 40}
    return lambda *structs: {struct: found.get(struct, {}) for struct in structs}


def macros_of(**kernel):
    return btf.task_macros(offsets(**kernel))


def test_task_macros():
    """Each macro is the field's offset, wherever it comes from."""
    macros = macros_of()
    assert macros["TASK_FLAGS"] == 8
    assert macros["FILE_DENTRY"] == 16
    assert (macros["DENTRY_NAME"], macros["DENTRY_NAME_LEN"]) == (40, 36)
    assert macros["SHORT_NAME_LEN"] == 40
    assert macros["USER_NS_INUM"] == 324
    assert {"TASK_LOGINUID", "TASK_SESSIONID", "SIGNAL_AUTOREAP", "THREAD_INFO_STATUS"} < set(macros)


def test_task_macros_of_older_kernels():
    """Fields were renamed; some exist only with CONFIG_AUDIT, since Linux 7.1, or on x86."""
    macros = macros_of(without=("loginuid", "sessionid", "autoreap", "status"), renamed=("dentry", "kernfs_node"))
    assert macros["KERNFS_PARENT"] == macros_of()["KERNFS_PARENT"]
    assert macros["DENTRY_SHORT_NAME"] == macros_of()["DENTRY_SHORT_NAME"]
    assert not {"TASK_LOGINUID", "TASK_SESSIONID", "SIGNAL_AUTOREAP", "THREAD_INFO_STATUS"} & set(macros)


def test_counters_of_pages():
    """Four percpu_counters since Linux 6.2, four numbers before; on a kernel that has neither, there is no macro."""
    for rss_bytes, first, stride in ((160, 8, 40), (32, 0, 8)):
        macros = macros_of(rss_bytes=rss_bytes)
        at = [macros[f"MM_{name}_PAGES"] - macros["MM_RSS_STAT"] for name in ("FILE", "ANON", "SHMEM")]
        assert at == [first, first + stride, first + 3 * stride]
    assert not {"MM_RSS_STAT", "MM_ANON_PAGES"} & set(macros_of(without=("rss_stat",)))


def test_a_kernel_without_a_field():
    """One line names the kernel and the field."""
    with pytest.raises(Failure, match=r"has no task_struct\.pdeath_signal") as refused:
        macros_of(without=("pdeath_signal",))
    assert refused.value.exit_code == Exit.UNAVAILABLE
