"""Offsets of the kernel fields that the probe reads, from the running kernel's BTF; bpf/task.h has the structures."""

from __future__ import annotations

import os
from collections.abc import Callable

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import libbpf

# Macro, struct, and the field's name, or names if the kernel has renamed it (newest first, with the release).
FIELDS = (
    ("TASK_FLAGS", "task_struct", "flags"),
    ("TASK_MM", "task_struct", "mm"),
    ("TASK_EXIT_CODE", "task_struct", "exit_code"),
    ("TASK_PDEATH_SIGNAL", "task_struct", "pdeath_signal"),
    ("TASK_EXIT_SIGNAL", "task_struct", "exit_signal"),
    ("TASK_PTRACE", "task_struct", "ptrace"),
    ("TASK_PARENT", "task_struct", "parent"),
    ("TASK_SIGHAND", "task_struct", "sighand"),
    ("TASK_PID", "task_struct", "pid"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_REAL_PARENT", "task_struct", "real_parent"),
    ("TASK_GROUP_LEADER", "task_struct", "group_leader"),
    ("TASK_THREAD_PID", "task_struct", "thread_pid"),
    ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
    ("TASK_CRED", "task_struct", "cred"),
    ("TASK_PTRACER_CRED", "task_struct", "ptracer_cred"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_SIGNAL", "task_struct", "signal"),
    ("TASK_CGROUPS", "task_struct", "cgroups"),
    ("SIGNAL_LIVE", "signal_struct", "live"),
    ("SIGNAL_FLAGS", "signal_struct", "flags"),
    ("SIGNAL_GROUP_EXIT_CODE", "signal_struct", "group_exit_code"),
    ("SIGNAL_TTY", "signal_struct", "tty"),
    ("SIGNAL_PIDS", "signal_struct", "pids"),
    ("SIGNAL_CPU_LIMIT", "signal_struct", "rlim"),  # RLIMIT_CPU is the first one
    ("SIGHAND_ACTION", "sighand_struct", "action"),
    ("SIGACTION_SIZE", "k_sigaction", ""),
    ("TTY_NAME", "tty_struct", "name"),
    ("SIGNAL_CURR_TARGET", "signal_struct", "curr_target"),
    ("CRED_UID", "cred", "uid"),
    ("CRED_USER_NS", "cred", "user_ns"),
    ("USER_NS_PARENT", "user_namespace", "parent"),
    ("USER_NS_LEVEL", "user_namespace", "level"),
    ("USER_NS_OWNER", "user_namespace", "owner"),
    ("PID_LEVEL", "pid", "level"),
    ("PID_NUMBERS", "pid", "numbers"),
    ("UPID_SIZE", "upid", ""),
    ("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
    ("CGROUP_KN", "cgroup", "kn"),
    ("CGROUP_LEVEL", "cgroup", "level"),
    ("KERNFS_ID", "kernfs_node", "id"),
    ("KERNFS_NAME", "kernfs_node", "name"),
    ("KERNFS_PARENT", "kernfs_node", "__parent", "parent"),  # 6.15
    ("KERNFS_IATTR", "kernfs_node", "iattr"),
    ("IATTR_UID", "kernfs_iattrs", "ia_uid"),
    ("MM_EXE_FILE", "mm_struct", "exe_file"),
    ("MM_PGTABLES_BYTES", "mm_struct", "pgtables_bytes"),
    ("SIGNAL_OOM_SCORE_ADJ", "signal_struct", "oom_score_adj"),
    ("MM_ARG_START", "mm_struct", "arg_start"),
    ("MM_ARG_END", "mm_struct", "arg_end"),
    ("DENTRY_PARENT", "dentry", "d_parent"),
    ("DENTRY_SB", "dentry", "d_sb"),
    ("DENTRY_SHORT_NAME", "dentry", "d_shortname", "d_iname"),  # 6.14
    ("SUPER_BLOCK_DEV", "super_block", "s_dev"),
)
# Present since Linux 6.1, with CONFIG_AUDIT, since Linux 7.1, on x86, with CONFIG_MEMCG, or on all known kernels.
OPTIONAL_FIELDS = (
    ("CGROUP_ANCESTORS", "cgroup", "ancestors"),
    ("TASK_LOGINUID", "task_struct", "loginuid"),
    ("TASK_SESSIONID", "task_struct", "sessionid"),
    ("SIGNAL_AUTOREAP", "signal_struct", "autoreap"),
    ("MM_RSS_STAT", "mm_struct", "rss_stat"),
    ("THREAD_INFO_STATUS", "thread_info", "status"),
    ("OOM_MEMCG", "oom_control", "memcg"),
    ("OOM_ORDER", "oom_control", "order"),
    ("OOM_CONSTRAINT", "oom_control", "constraint"),
    ("MEM_CGROUP_CSS", "mem_cgroup", "css"),
    ("CSS_CGROUP", "cgroup_subsys_state", "cgroup"),
)
_PAGES = ("MM_FILE_PAGES", "MM_ANON_PAGES", "", "MM_SHMEM_PAGES")  # of mm_struct.rss_stat, in its order


def task_macros(
    struct_offsets: Callable[..., dict[str, dict[str, int]]] = libbpf.struct_offsets,
) -> dict[str, int]:
    """Byte offsets of the fields that the probe reads, by the macro that task.h uses. Raises Failure."""
    fields = FIELDS + OPTIONAL_FIELDS
    found = struct_offsets(
        "file", "path", "percpu_counter", "qstr", "ns_common", *dict.fromkeys(owner for _, owner, *_ in fields)
    )
    macros = {}
    for macro, owner, *names_of_field in fields:
        offsets = [found[owner][name] for name in names_of_field if name in found[owner]]
        if offsets:
            macros[macro] = offsets[0]
        elif (macro, owner, *names_of_field) in FIELDS:
            raise Failure(
                Exit.UNAVAILABLE,
                f"kernel {os.uname().release} has no {owner}.{names_of_field[0]}, which the probe reads: report it",
            )
    mm, counter = found["mm_struct"], found["percpu_counter"]
    # Resident pages: an array of percpu_counter since Linux 6.2, of numbers before (enum in linux/mm_types_task.h).
    if rss := macros.get("MM_RSS_STAT"):
        percpu = min(at for at in mm.values() if at > rss) - rss >= len(_PAGES) * counter[""]
        first, stride = (rss + counter["count"], counter[""]) if percpu else (rss, 8)
        macros |= {macro: first + number * stride for number, macro in enumerate(_PAGES) if macro}
    macros["USER_NS_INUM"] = found["user_namespace"]["ns"] + found["ns_common"]["inum"]
    dentry = found["dentry"]
    macros["FILE_DENTRY"] = found["file"]["f_path"] + found["path"]["dentry"]
    macros["DENTRY_NAME"] = dentry["d_name"] + found["qstr"]["name"]
    macros["DENTRY_NAME_LEN"] = dentry["d_name"] + found["qstr"]["len"]
    short_name = macros["DENTRY_SHORT_NAME"]
    macros["SHORT_NAME_LEN"] = min(at for at in dentry.values() if at > short_name) - short_name
    return macros
