/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The origin of a signal, from the arguments of signal_generate and the current system call. */

#define SI_USER 0 /* codes, see sigaction(2) */
#define SI_QUEUE -1
#define SI_TIMER -2
#define SI_MESGQ -3
#define SI_ASYNCIO -4
#define SI_SIGIO -5
#define SI_TKILL -6
#define SI_KERNEL 0x80
#define CLD_EXITED 1
#define CLD_DUMPED 3
#define TRAP_PERF 6
#define SESSION 3 /* PIDTYPE_SID (linux/pid.h) */

/*
 * The kernel may pass a special number instead of the address of a siginfo (SEND_SIG_NOINFO and SEND_SIG_PRIV in
 * include/linux/sched/signal.h). User space cannot do that.
 */
enum info { NOINFO, PRIV, ADDRESS };

/* A siginfo's code. Some kernels (6.12.117 for one) treat the argument as a number, which it may be: see enum info. */
static __always_inline s64 code_of(struct kernel_siginfo *siginfo, u64 address)
{
	s32 code = SI_USER;

#if RDONLY_CAST
	siginfo = bpf_rdonly_cast(address, KERNEL_SIGINFO);
	code = siginfo->si_code;
#elif PROBE_READ && !TYPED_SIGINFO /* the helper takes a hundred instructions */
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
 * keep clang from turning that into a comparison with 0. Returns an enum info.
 */
static __always_inline u64 info_of(u64 *ctx, s64 *code)
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
static __always_inline bool is_sending(u64 sig, struct task_struct *sender, struct running *running)
{
	return running->call < WRITE && (u32)running->sig == sig && !(sender->flags & PF_EXITING);
}

/*
 * Whether a call of the sender can have passed this code. An interrupt may generate another signal of the same number
 * during the call. kill, tkill and tgkill pass one code each. The other calls take any code for the sender's own
 * process, and for other processes the negative ones and that of kill (do_rt_sigqueueinfo, kernel/signal.c).
 */
static __always_inline bool is_code_of_call(s64 code, bool own, struct running *running)
{
	return running->call <= TGKILL ? code == SI_USER || code == SI_TKILL : own || code <= SI_USER;
}

static __always_inline bool is_fault(u64 sig)
{
	return sig == SIGILL || sig == SIGTRAP || sig == SIGBUS || sig == SIGFPE || sig == SIGSEGV || sig == SIGSYS;
}

/*
 * The origin of a signal with a siginfo that no system call passed: its code is the kernel's own.
 *
 * SELF: the process's own timer, message queue or USB request, and its faults.
 * SIGIO: fcntl(2) F_SETSIG chooses the signal, and any process may be the F_SETOWN of a file. For signals with codes of
 * their own the code is SI_SIGIO, else one of POLL_IN to POLL_HUP, 1 to 6 (send_sigio_to_task, fs/fcntl.c).
 * EXIT_SIGNAL: clone(2) chooses the signal that the parent gets (do_notify_parent).
 * PTRACE: the tracer has injected a signal that its tracee blocks (ptrace_signal).
 */
static __always_inline enum origin origin_by_code(s64 code, u64 sig, struct task_struct *sender, struct task_struct *target)
{
	bool own = sender->tgid == target->tgid;

	if (code == SI_TIMER || code == SI_MESGQ || code == SI_ASYNCIO)
		return SELF;
	if (code == SI_SIGIO)
		return SIGIO;
	if (code <= 0 || code == SI_KERNEL)
		return !own ? KERNEL : code == SI_KERNEL ? SELF : target->ptrace ? PTRACE : KERNEL;
	if (is_fault(sig)) /* others: memory errors, and traps that a perf event of another process may set */
		return own && !(sig == SIGTRAP && code == TRAP_PERF) ? SELF : KERNEL;
	struct task_struct *leader = sender->group_leader;

	if (code <= CLD_DUMPED && sender->flags & PF_EXITING && leader && leader->exit_signal == (s32)sig)
		return EXIT_SIGNAL;
	return SIGIO;
}

/* Whether the hard limit of the process's CPU time is set (RLIMIT_CPU). */
static __always_inline bool has_cpu_limit(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;

	return signal && signal->cpu_limit[1] != (u64)-1;
}

/* The terminal's own signals: its keys, hangup, job control, change of size. Only init gets SIGINT for Ctrl-Alt-Del. */
static __always_inline bool is_of_tty(u64 sig, struct task_struct *target)
{
	switch (sig) {
	case SIGINT: case SIGQUIT: case SIGTSTP: case SIGHUP: case SIGCONT: case SIGTTIN: case SIGTTOU: case SIGWINCH:
		return target->tgid != 1;
	default:
		return false;
	}
}

/*
 * Whether the process in whose context a terminal sends a signal is the sender: it is in ioctl(2), or of the same session,
 * such as the leader that exits. Any other process may just be the last to close the terminal, which somebody passed to it
 * through a unix socket.
 */
static __always_inline bool sends_by_tty(struct task_struct *sender, struct task_struct *target, struct running *running)
{
	struct signal_struct *ours = sender->signal, *theirs = target->signal;

	if (sender->flags & PF_KTHREAD)
		return false;
	return running->call == IOCTL_CALL || (ours && theirs && ours->pids[SESSION] == theirs->pids[SESSION]);
}

/*
 * docs/design.md has this as a table, with the functions of the kernel. The origin of a SEND_SIG_PRIV SIGKILL to a
 * process comes from provisional_origin().
 */
static __always_inline enum origin origin_of(u64 info, s64 code, u64 sig, bool group, struct task_struct *sender,
					     struct task_struct *target, struct running *running)
{
	bool own = sender->tgid == target->tgid;
	bool sending = is_sending(sig, sender, running);

	if (info == ADDRESS)
		return sending && is_code_of_call(code, own, running) ? SYSCALL :
		       origin_by_code(code, sig, sender, target);
	if (info == PRIV && (sig == SIGALRM || sig == SIGVTALRM || sig == SIGPROF))
		return SELF; /* alarm(2), setitimer(2): the timer may expire while any process is running, in any call */
	if (sending && (info == NOINFO || !own))
		return SYSCALL;
	if (info == NOINFO) {
		if (sender->flags & PF_KTHREAD)
			return KERNEL;
		if (sig == SIGKILL && !group && running->call == PTRACE_CALL)
			return PTRACE; /* PTRACE_KILL */
		/* cgroup.kill: send_sig(SIGKILL, task, 0) in the context of the process that writes the file. */
		if (sig == SIGKILL && !group && (!own || running->call == WRITE))
			return CGROUP;
		if (own && !group) /* send_sig(sig, current, 0): SIGPIPE, SIGXFSZ, SIGTRAP at exec */
			return sig == SIGXFSZ ? RLIMIT : SELF;
		/* An exiting parent sends PR_SET_PDEATHSIG to its children (forget_original_parent). */
		if (group && sender->flags & PF_EXITING && target->pdeath_signal == sig)
			return PDEATHSIG;
		return group && is_of_tty(sig, target) ? TTY : KERNEL; /* TIOCNOTTY */
	}
	if (sig == SIGPOLL || sig == SIGURG)
		return SIGIO;
	if (!group)
		return (sig == SIGSTOP && running->call == PTRACE_CALL) || /* PTRACE_ATTACH */
				       (sig == SIGKILL && sender->flags & PF_EXITING && target->ptrace) ? /* PTRACE_O_EXITKILL */
			       PTRACE : KERNEL;
	if (own && sig == SIGXCPU)
		return RLIMIT;
	return is_of_tty(sig, target) ? TTY : KERNEL;
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
 * (pidfs_file_release), to a process that exceeds its CPU time limit (in its own context, as bpf_send_signal), and for SysRq (from a kernel
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
	if (own && has_cpu_limit(target))
		return RLIMIT;
	return own || sender->flags & PF_KTHREAD || running->call == WRITE ? KERNEL : OOM;
}

/*
 * Whether the origin of a SIGKILL is only the likeliest one: it assumes that this kernel behaves like the known ones.
 * docs/design.md has the table.
 */
static __always_inline bool is_inferred(enum origin origin, u64 info, struct task_struct *sender,
					struct task_struct *target, struct running *running, bool namespace_end)
{
	switch (origin) {
	case SYSCALL: return info == PRIV;
	case CGROUP: return running->call != WRITE;
	case AUTOKILL: return !closes_files(sender);
	case OOM: return true; /* until oom:mark_victim confirms it */
	case PDEATHSIG: case PTRACE: case SIGIO: case EXIT_SIGNAL: case RLIMIT: return false;
	default: return sender->tgid != target->tgid && !namespace_end;
	}
}
