/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The few kernel structures that the probe reads.
 *
 * bcc has no CO-RE, but the probe is compiled on the machine it runs on: the loader asks the kernel's BTF where
 * each field is and passes the byte offsets as macros. Typed pointers (bpf_get_current_task_btf) may then be
 * read by plain loads, which works under lockdown=confidentiality, where bpf_probe_read_kernel is refused.
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

struct cred {
	FIELD_AT(CRED_UID, unsigned int uid);
};

struct task_struct {
	union {
		FIELD_AT(TASK_CRED, struct cred *cred);
		FIELD_AT(TASK_TGID, int tgid);
#if TASK_COMM % 8 == 0
		FIELD_AT(TASK_COMM, u64 comm_words[COMM_LEN / 8]);
#else
		FIELD_AT(TASK_COMM, char comm[COMM_LEN]);
#endif
		FIELD_AT(TASK_GROUP_LEADER, struct task_struct *group_leader);
		FIELD_AT(TASK_REAL_PARENT, struct task_struct *real_parent);
		FIELD_AT(TASK_THREAD_PID, struct pid *thread_pid);
#ifdef TASK_LOGINUID /* CONFIG_AUDIT */
		FIELD_AT(TASK_LOGINUID, unsigned int loginuid);
		FIELD_AT(TASK_SESSIONID, unsigned int sessionid);
#endif
	};
};

/* The verifier lets a char array be read in words, as long as none reaches beyond its end (kernel/bpf/btf.c). */
static inline __attribute__((always_inline)) void read_comm(char *to, struct task_struct *task)
{
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

/* User registers as the kernel saved them at system call entry: a layout that ptrace froze long ago. */
#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
};
#define ARG0(regs) ((regs)->di)
#define ARG1(regs) ((regs)->si)
#define ARG2(regs) ((regs)->dx)
#elif defined(__aarch64__)
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate, orig_x0;
};
#define ARG0(regs) ((regs)->orig_x0) /* x0 holds the return value by now */
#define ARG1(regs) ((regs)->regs[1])
#define ARG2(regs) ((regs)->regs[2])
#else
#error "killsnoopd knows the system call registers of x86-64 and arm64 only"
#endif
