/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Where a signal comes from, by what the kernel hands to signal_generate. */

#define SI_USER 0 /* codes, see sigaction(2) */
#define SI_QUEUE -1
#define SI_TKILL -6
#define SI_KERNEL 0x80

/*
 * The kernel marks its own signals by a number in place of the address of a siginfo (include/linux/sched/signal.h).
 * Nobody in user space can do that.
 */
enum info { NOINFO, PRIV, ADDRESS };

#if RDONLY_CAST
/* A function of the kernel (6.2), which the loader calls in the place of this number; it costs nothing. */
static void *(*bpf_rdonly_cast)(u64 address, u32 btf_id) = (void *)RDONLY_CAST;
#endif

/* A siginfo's code. Newer kernels, 6.12.117 for one, do not take the argument for a pointer, as it may be a number. */
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
	if (siginfo) /* some kernels ask for this test */
		code = siginfo->si_code;
#endif
	return code;
}

/*
 * The verifier may take the argument for a valid pointer and drop every comparison with 0: so tell by its size what it
 * is, and keep clang from making that a comparison with 0.
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
 * Whether the sender is in one of the six calls, and gave it this signal. kill(2) fills in a siginfo up to Linux 7.2, and
 * leaves it to the kernel's mark since 7.3; the next one to do so is known by this, too. Not a sender that is exiting: it
 * may have killed itself by such a call, and what it sends now is its children's PR_SET_PDEATHSIG.
 */
static __always_inline bool called_for(u32 sig, struct task_struct *sender, struct running *running)
{
	return running->call < WRITE && running->sig == (s32)sig && !(sender->flags & PF_EXITING);
}

/* Where a signal comes from; a sender in user space cannot choose a code that is not negative towards others. */
static __always_inline enum origin origin_of(enum info info, s32 code, u32 sig, bool group, struct task_struct *sender,
					     struct task_struct *target, struct running *running)
{
	if (info == ADDRESS)
		return code != SI_KERNEL && running->call < WRITE ? SYSCALL : KERNEL;
	/* A mark of the other kind for the sender's own process: a limit of CPU time that it runs into within the call. */
	if (called_for(sig, sender, running) && (info == NOINFO || sender->tgid != target->tgid))
		return SYSCALL;
	if (info == PRIV || sender->flags & PF_KTHREAD)
		return KERNEL;
	/* cgroup.kill: send_sig(SIGKILL, task, 0) in the context of whoever writes the file (__cgroup_kill). */
	if (sig == SIGKILL && !group && (sender->tgid != target->tgid || running->call == WRITE))
		return CGROUP;
	/* The parent's exit hands its children over (forget_original_parent). */
	if (group && sender->flags & PF_EXITING && target->pdeath_signal == sig)
		return PDEATHSIG;
	return KERNEL;
}

/* A child made by clone3(2) with CLONE_AUTOREAP, without which there is no CLONE_PIDFD_AUTOKILL. */
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
 * The OOM killer's SIGKILL looks like this, too: a mark of the kernel's, to a whole process. oom:mark_victim follows at
 * once, but the victim may have died on another CPU before: then this is the answer. The last reference to a pidfd of
 * CLONE_PIDFD_AUTOKILL kills the child (pidfs_file_release). A process that runs into its limit of CPU time kills itself, and
 * SysRq kills from a kernel thread or in a write.
 */
static __always_inline enum origin suspected_origin(struct task_struct *sender, struct task_struct *target,
						    struct running *running)
{
	bool own = sender->tgid == target->tgid;

	if (is_autoreaped(target))
		return AUTOKILL;
	if (!own && called_for(SIGKILL, sender, running))
		return SYSCALL;
	return own || sender->flags & PF_KTHREAD || running->call == WRITE ? KERNEL : OOM;
}

/*
 * Whether the origin of a SIGKILL is the likeliest one, and no more: it rests on an assumption about what this kernel does.
 * docs/design.md has the table.
 */
static __always_inline bool is_inferred(enum origin origin, enum info info, struct task_struct *sender,
					struct task_struct *target, struct running *running, bool namespace_end)
{
	switch (origin) {
	case SYSCALL: return info == PRIV;
	case CGROUP: return running->call != WRITE;
	case AUTOKILL: return !closes_files(sender);
	case OOM: return true; /* until oom:mark_victim comes */
	case PDEATHSIG: return false;
	default: return sender->tgid != target->tgid && !namespace_end;
	}
}
