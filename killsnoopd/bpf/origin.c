/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The origin of a signal, from the arguments of signal_generate and the current system call. */

#define SI_USER 0 /* codes, see sigaction(2) */
#define SI_QUEUE -1
#define SI_TKILL -6
#define SI_KERNEL 0x80

/*
 * The kernel may pass a special number instead of the address of a siginfo (SEND_SIG_NOINFO and SEND_SIG_PRIV in
 * include/linux/sched/signal.h). User space cannot do that.
 */
enum info { NOINFO, PRIV, ADDRESS };

#if RDONLY_CAST
/* A kernel function (Linux 6.2) that costs nothing at run time. The loader replaces this number with its BTF id. */
static void *(*bpf_rdonly_cast)(u64 address, u32 btf_id) = (void *)RDONLY_CAST;
#endif

/* A siginfo's code. Some kernels (6.12.117 for one) treat the argument as a number, which it may be: see enum info. */
static __always_inline s32 code_of(struct kernel_siginfo *siginfo, u64 address)
{
	s32 code = SI_USER;

#if RDONLY_CAST
	siginfo = bpf_rdonly_cast(address, KERNEL_SIGINFO);
	code = siginfo->si_code;
#elif PROBE_READ
	siginfo = (void *)address;
	read_kernel(&code, sizeof(code), &siginfo->si_code);
#else
	if (siginfo) /* the verifier of some kernels demands this test */
		code = siginfo->si_code;
#endif
	return code;
}

/*
 * The verifier may take the argument for a valid pointer and drop comparisons with 0. So compare its value with 1, and
 * keep clang from turning that into a comparison with 0.
 */
static __always_inline enum info info_of(u64 *ctx, s32 *code)
{
	u64 address = ctx[1];

	asm volatile("" : "+r"(address));
	if (address > 1) {
		*code = code_of((void *)ctx[1], address);
		return ADDRESS;
	}
	asm volatile("" : "+r"(address));
	*code = address == 1 ? SI_KERNEL : SI_USER;
	return address == 1 ? PRIV : NOINFO;
}

/*
 * Whether the sender is in one of the six calls, with this signal as its argument. kill(2) passes a siginfo up to Linux
 * 7.2 and SEND_SIG_NOINFO since 7.3; this test also covers other calls that may follow. An exiting sender does not
 * count: it may have killed itself by such a call, and now sends its children their PR_SET_PDEATHSIG.
 */
static __always_inline bool is_sending(u32 sig, struct task_struct *sender, struct running *running)
{
	return running->call < WRITE && running->sig == (s32)sig && !(sender->flags & PF_EXITING);
}

/* User space cannot send others a code that is not negative, so it cannot pretend to be the kernel. */
static __always_inline enum origin origin_of(enum info info, s32 code, u32 sig, bool group, struct task_struct *sender,
					     struct task_struct *target, struct running *running)
{
	if (info == ADDRESS)
		return code != SI_KERNEL && running->call < WRITE ? SYSCALL : KERNEL;
	/* SEND_SIG_PRIV to its own process: the sender exceeds its CPU time limit during the call. */
	if (is_sending(sig, sender, running) && (info == NOINFO || sender->tgid != target->tgid))
		return SYSCALL;
	if (info == PRIV || sender->flags & PF_KTHREAD)
		return KERNEL;
	/* cgroup.kill: send_sig(SIGKILL, task, 0) in the context of the process that writes the file (__cgroup_kill). */
	if (sig == SIGKILL && !group && (sender->tgid != target->tgid || running->call == WRITE))
		return CGROUP;
	/* An exiting parent sends PR_SET_PDEATHSIG to its children (forget_original_parent). */
	if (group && sender->flags & PF_EXITING && target->pdeath_signal == sig)
		return PDEATHSIG;
	return KERNEL;
}

/* A child made by clone3(2) with CLONE_AUTOREAP, which CLONE_PIDFD_AUTOKILL requires. */
static __always_inline bool is_autoreaped(struct task_struct *task)
{
#ifdef SIGNAL_AUTOREAP
	struct signal_struct *signal = task->signal;

	return signal && signal->autoreap & 1;
#else
	return false;
#endif
}

/*
 * The origin of a SEND_SIG_PRIV SIGKILL to a process, unless oom:mark_victim follows. The OOM killer sends such a
 * SIGKILL, and mark_victim follows at once; but the victim may die on another CPU first, and then this origin stands.
 * The kernel sends the same SIGKILL to a child when the last reference to its CLONE_PIDFD_AUTOKILL pidfd goes
 * (pidfs_file_release), to a process that exceeds its CPU time limit (in its own context), and for SysRq (from a kernel
 * thread or in write(2)).
 */
static __always_inline enum origin provisional_origin(struct task_struct *sender, struct task_struct *target,
						    struct running *running)
{
	bool own = sender->tgid == target->tgid;

	if (is_autoreaped(target))
		return AUTOKILL;
	if (!own && is_sending(SIGKILL, sender, running))
		return SYSCALL;
	return own || sender->flags & PF_KTHREAD || running->call == WRITE ? KERNEL : OOM;
}

/*
 * Whether the origin of a SIGKILL is only the likeliest one: it assumes that this kernel behaves like the known ones.
 * docs/design.md has the table.
 */
static __always_inline bool is_inferred(enum origin origin, enum info info, struct task_struct *sender,
					struct task_struct *target, struct running *running, bool namespace_end)
{
	switch (origin) {
	case SYSCALL: return info == PRIV;
	case CGROUP: return running->call != WRITE;
	case AUTOKILL: return !closes_files(sender);
	case OOM: return true; /* until oom:mark_victim confirms it */
	case PDEATHSIG: return false;
	default: return sender->tgid != target->tgid && !namespace_end;
	}
}
