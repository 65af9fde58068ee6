/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The kernel structures that the probe reads.
 *
 * bcc has no CO-RE, but the probe is compiled on the machine that it runs on: the loader takes the offset of each field
 * from the kernel's BTF and passes it as a macro. Plain loads through typed pointers (bpf_get_current_task_btf) work
 * even under lockdown=confidentiality, where the kernel refuses bpf_probe_read_kernel.
 *
 * Test every pointer that is read from a structure before you follow it, even one that cannot be NULL. In a kernel
 * built by Clang, BTF marks the pointers that RCU protects (__rcu is a type tag there), and the verifier demands the
 * test. The set of these pointers changes between releases. tests/kernel/test_null_checks.py finds missing tests.
 */
#pragma once

#define COMM_LEN 16

/* A field of the given type at a byte offset known at compile time. */
#define FIELD_AT(offset, declaration) struct { char pad_##offset[offset]; declaration; }

struct upid {
	int nr; /* the pid as seen in one namespace */
	char rest[UPID_SIZE - sizeof(int)];
};

struct pid {
	union {
		FIELD_AT(PID_LEVEL, unsigned int level);
		FIELD_AT(PID_NUMBERS, struct upid numbers[4]);
	};
};

struct user_namespace {
	union {
		FIELD_AT(USER_NS_PARENT, struct user_namespace *parent);
		FIELD_AT(USER_NS_LEVEL, int level); /* 0: the initial one */
		FIELD_AT(USER_NS_OWNER, unsigned int owner);
		FIELD_AT(USER_NS_INUM, unsigned int inum);
	};
};

struct cred {
	union {
		FIELD_AT(CRED_UID, unsigned int uid);
		FIELD_AT(CRED_USER_NS, struct user_namespace *user_ns);
	};
};

struct kernfs_node {
	union {
		FIELD_AT(KERNFS_ID, u64 id);
		FIELD_AT(KERNFS_PARENT, struct kernfs_node *parent);
	};
};

struct cgroup {
	union {
		FIELD_AT(CGROUP_KN, struct kernfs_node *kn);
		FIELD_AT(CGROUP_LEVEL, int level); /* 0: the root */
	};
};

struct css_set {
	FIELD_AT(CSS_SET_DFL_CGRP, struct cgroup *dfl_cgrp);
};

struct super_block {
	FIELD_AT(SUPER_BLOCK_DEV, unsigned int s_dev);
};

struct dentry {
	union {
		FIELD_AT(DENTRY_PARENT, struct dentry *d_parent);
		FIELD_AT(DENTRY_SB, struct super_block *d_sb);
		FIELD_AT(DENTRY_NAME, const char *name);
		FIELD_AT(DENTRY_NAME_LEN, unsigned int name_len);
		FIELD_AT(DENTRY_SHORT_NAME, u64 short_name[SHORT_NAME_LEN / 8]); /* the name, if it is shorter than this */
	};
};

struct file {
	FIELD_AT(FILE_DENTRY, struct dentry *dentry);
};

struct mm_struct {
	union {
		FIELD_AT(MM_EXE_FILE, struct file *exe_file);
		FIELD_AT(MM_ARG_START, u64 arg_start); /* addresses of the command line in the process's own memory */
		FIELD_AT(MM_ARG_END, u64 arg_end);
#ifdef MM_RSS_STAT
		FIELD_AT(MM_PGTABLES_BYTES, s64 pgtables_bytes);
		FIELD_AT(MM_FILE_PAGES, s64 file_pages);
		FIELD_AT(MM_ANON_PAGES, s64 anon_pages);
		FIELD_AT(MM_SHMEM_PAGES, s64 shmem_pages);
#endif
	};
};

struct tty_struct {
	FIELD_AT(TTY_NAME, char name[COMM_LEN]); /* the start of it: pts/4, ttyS0 */
};
struct task_struct;

struct signal_struct {
	union {
		FIELD_AT(SIGNAL_LIVE, int live); /* threads that have not begun to exit */
		FIELD_AT(SIGNAL_FLAGS, unsigned int flags);
		FIELD_AT(SIGNAL_GROUP_EXIT_CODE, int group_exit_code);
		FIELD_AT(SIGNAL_TTY, struct tty_struct *tty);
		FIELD_AT(SIGNAL_PIDS, struct pid *pids[4]); /* of the process, thread group, process group and session */
		FIELD_AT(SIGNAL_CPU_LIMIT, u64 cpu_limit[2]); /* RLIMIT_CPU: soft, hard */
		FIELD_AT(SIGNAL_OOM_SCORE_ADJ, s16 oom_score_adj);
		FIELD_AT(SIGNAL_CURR_TARGET, struct task_struct *curr_target); /* the thread that got the last signal */
#ifdef SIGNAL_AUTOREAP /* Linux 7.1 */
		FIELD_AT(SIGNAL_AUTOREAP, unsigned char autoreap); /* lowest bit: CLONE_AUTOREAP */
#endif
	};
};

struct sighand_struct {
	FIELD_AT(SIGHAND_ACTION, char action[1]);
};

struct k_sigaction {
	u64 handler; /* SIG_DFL, SIG_IGN, or an address (struct sigaction begins with it) */
};

struct task_struct {
	union {
#ifdef THREAD_INFO_STATUS /* x86 */
		FIELD_AT(THREAD_INFO_STATUS, unsigned int thread_status);
#endif
		FIELD_AT(TASK_FLAGS, unsigned int flags);
		FIELD_AT(TASK_MM, struct mm_struct *mm);
		FIELD_AT(TASK_EXIT_CODE, int exit_code);
		FIELD_AT(TASK_PDEATH_SIGNAL, int pdeath_signal);
		FIELD_AT(TASK_EXIT_SIGNAL, int exit_signal);
		FIELD_AT(TASK_PTRACE, unsigned int ptrace); /* not 0: traced */
		FIELD_AT(TASK_PARENT, struct task_struct *parent); /* the tracer, if there is one */
		FIELD_AT(TASK_SIGHAND, struct sighand_struct *sighand);
		FIELD_AT(TASK_PID, int pid);
		FIELD_AT(TASK_TGID, int tgid);
		FIELD_AT(TASK_REAL_PARENT, struct task_struct *real_parent);
		FIELD_AT(TASK_GROUP_LEADER, struct task_struct *group_leader);
		FIELD_AT(TASK_THREAD_PID, struct pid *thread_pid);
		FIELD_AT(TASK_START_BOOTTIME, u64 start_boottime);
		FIELD_AT(TASK_CRED, struct cred *cred);
		FIELD_AT(TASK_PTRACER_CRED, struct cred *ptracer_cred); /* of the tracer when it attached */
#if TASK_COMM % 8 == 0
		FIELD_AT(TASK_COMM, u64 comm_words[COMM_LEN / 8]);
#else
		FIELD_AT(TASK_COMM, char comm[COMM_LEN]);
#endif
		FIELD_AT(TASK_SIGNAL, struct signal_struct *signal);
		FIELD_AT(TASK_CGROUPS, struct css_set *cgroups);
#ifdef TASK_LOGINUID /* CONFIG_AUDIT */
		FIELD_AT(TASK_LOGINUID, unsigned int loginuid);
		FIELD_AT(TASK_SESSIONID, unsigned int sessionid);
#endif
	};
};

#define SIGNAL_GROUP_EXIT 4 /* in signal->flags (linux/sched/signal.h) */
#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

/* The start of struct kernel_siginfo, the same on all 64-bit architectures (uapi/asm-generic/siginfo.h). */
struct kernel_siginfo {
	int si_signo, si_errno, si_code;
};

/* The verifier allows word reads of a char array that stay inside it (kernel/bpf/btf.c). */
static inline __attribute__((always_inline)) void read_comm(char *to, struct task_struct *task)
{
	if (!task) {
		__builtin_memset(to, 0, COMM_LEN);
		return;
	}
#if TASK_COMM % 8 == 0
	u64 *words = (u64 *)to;

	words[0] = task->comm_words[0];
	words[1] = task->comm_words[1];
#else
#pragma unroll
	for (int i = 0; i < COMM_LEN; i++)
		to[i] = task->comm[i];
#endif
}
