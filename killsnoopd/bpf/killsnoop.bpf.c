/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The probe.
 *
 * Exits of the six system calls that send signals: counts every call. A call that fails, or that sends signal 0, makes
 * an event.
 * signal_generate: counts every signal generated for a process, and makes an event of it.
 * oom:mark_victim: identifies the SIGKILLs of the OOM killer. out_of_memory(), where it can be had: whose memory it was.
 * sched_process_exit: counts every process that dies of a signal, or exits soon after one that it handled, and makes an
 * event of it.
 *
 * The loader defines these macros. All are integers that it has validated:
 *   CPUS               possible CPUs
 *   PAGE_SIZE          bytes of a page of memory
 *   SERIES_MAX         number of series (sets of comm, signal and result) with a counter of their own
 *   DEATHS_MAX         number of series of deaths (sets of sender, victim, unit, signal and origin)
 *   TTL_NS             ns without a call after which a series may lose its counter; 0: never
 *   RING_PAGES         size of the event ring buffer, in pages; a power of two
 *   EXCLUDE_LOW/_HIGH  bit set of signals whose events are not emitted: 0..63 / 64 and above
 *   RULES              rules in use in the map `rules`
 *   FATAL_LOW/_HIGH    bit set of signals whose default action ends the process
 *   EVENT_INTERVAL_NS  ns per token of a bucket; 0: no limit
 *   EVENT_BURST_NS     depth of a bucket: (burst - 1) * EVENT_INTERVAL_NS
 *   GRACE_NS           a SIGKILL this soon after a SIGTERM is an escalation; an exit this soon after a handled signal
 *                      is its effect
 *   SELF_SIGNALS       1: also count tkill/tgkill to the sender's own process
 *   CMDLINE            1: events have the sender's command line
 *   PROBE_READ         1: programs may read any kernel memory; 0: lockdown=confidentiality forbids it
 *   RDONLY_CAST        placeholder for a call of bpf_rdonly_cast; 0: the kernel has no such function
 *   EVENTS_FD          placeholder for the fd of the map `events`
 *   TYPED_SIGINFO      1: signal_generate passes its siginfo as a typed pointer; 0: as a number
 *   KERNEL_SIGINFO     BTF id of struct kernel_siginfo
 *   K_SIGACTION        BTF id of struct k_sigaction
 *   MARK_VICTIM_TASK   1: oom:mark_victim passes the victim's task; 0: its thread id
 *   RESULT_OFFSET      byte offset of a call's result in the argument of on_sys_exit
 *   TASK_*, PID_*, ... byte offsets of fields, from the kernel's BTF (task.h)
 */
#define BPF_LICENSE Dual MIT/GPL

#include "registers.h"
#include "task.h"
#include "maps.h"

#define INVALID 65
#define SIGHUP 1
#define SIGINT 2
#define SIGQUIT 3
#define SIGILL 4
#define SIGTRAP 5
#define SIGBUS 7
#define SIGFPE 8
#define SIGKILL 9
#define SIGSEGV 11
#define SIGALRM 14
#define SIGTERM 15
#define SIGCHLD 17
#define SIGCONT 18
#define SIGSTOP 19
#define SIGTSTP 20
#define SIGTTIN 21
#define SIGTTOU 22
#define SIGURG 23
#define SIGXCPU 24
#define SIGXFSZ 25
#define SIGVTALRM 26
#define SIGPROF 27
#define SIGWINCH 28
#define SIGPOLL 29
#define SIGSYS 31
#define EAGAIN 11
#define MAX_ERRNO 4095
#define NO_UNROLL _Pragma("clang loop unroll(disable)")

/* Compiler barrier: reload values from memory, so that the verifier drops what it knew of each branch. */
#define BARRIER asm volatile("" ::: "memory")

/* Our own names: bcc replaces calls of the helpers that it knows if /proc/kallsyms does not list them. */
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_kernel_str)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel_str;
static long (*read_user)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;
static long (*read_user_str)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user_str;

#if RDONLY_CAST
/* A kernel function (Linux 6.2) that costs nothing at run time. The loader replaces this number with its BTF id. */
static void *(*bpf_rdonly_cast)(u64 address, u32 btf_id) = (void *)RDONLY_CAST;
#endif

/* bcc translates counts.lookup() and the like only in the main file, so the loader inserts these files here. */
#include "counters.c"
#include "rate_limits.c"
#include "event_scratch.c"
#include "fatal_signals.c"
#include "origin.c"
#include "deaths.c"
#include "ends.c"

struct sys_exit {
	FIELD_AT(RESULT_OFFSET, s64 ret);
};

/*
 * Exits of the system calls that send signals: tracepoints syscalls:sys_exit_{kill,tkill,...}, or the returns of the
 * functions __x64_sys_kill and so on. The saved user registers still hold the arguments.
 */
int on_sys_exit(struct sys_exit *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct running running;
	struct series key;
	u32 cpu = bpf_get_smp_processor_id(), at = EXIT * cpu + CALL;
	struct scratch *scratch = scratch_buffers.lookup(&at);

	read_running(&running, task);
	if (!scratch || running.call >= WRITE)
		return 0;
	if (!SELF_SIGNALS && ((running.call == TGKILL && running.target_arg == innermost_pid(task->group_leader)) ||
			      (running.call == TKILL && running.target_arg == innermost_pid(task))))
		return 0;
	/* A thread may have its own name. The name of the process is that of its group leader. */
	read_comm(key.comm, task->group_leader);
	key.sig = running.sig >= 0 && running.sig < INVALID ? running.sig : INVALID;
	/* A tracer or a seccomp filter can make a call return any value. */
	key.res = ctx->ret >= 0 ? 0 : ctx->ret < -MAX_ERRNO ? -MAX_ERRNO : ctx->ret;
	count_call(cpu, &key, &scratch->cache);
	/* signal_generate has already made an event for each target. */
	if (key.res == 0 && key.sig != 0)
		return 0;
	bool self_test = key.sig == 0 && is_self_test(task);

	scratch->now = 0;
	name_sender(&scratch->event.cause.sender, task);
	if (self_test)
		count_event_status(cpu, CALL, FILTERED);
	else if (!admit(cpu, CALL, &scratch->event, key.sig, bucket_of(task), false, &scratch->cache,
			&scratch->now))
		return 0;
	__builtin_memset(&scratch->event, 0, sizeof(scratch->event));
	scratch->event.time_ns = scratch->now ? scratch->now : bpf_ktime_get_boot_ns();
	scratch->event.cause.flags = (self_test ? SELF_TEST : 0) | (running.compat ? COMPAT : 0);
	scratch->event.cause.target_arg = running.target_arg;
	scratch->event.cause.sig = running.sig;
	scratch->event.res = key.res;
	scratch->event.kind = CALL;
	scratch->event.cause.origin = SYSCALL;
	scratch->event.cause.call = running.call;
	describe_sender(&scratch->event.cause.sender, task);
	scratch->text_len = 0;
	add_exe(scratch, task);
	add_cgroup(scratch, task, &scratch->event.cgroup_len);
	add_cmdline(scratch, task);
	add_ancestors(scratch, task);
	output_scratch(cpu, CALL, false, scratch);
	return 0; /* 0: no perf sample */
}

/* BTF tracepoint signal:signal_generate(sig, info, target, group, result). siglock is held and interrupts are off. */
int on_signal_generate(u64 *ctx)
{
	u64 sig = ctx[0], outcome = ctx[4]; /* of 64 bits, as others here: BPF compares 32 in three instructions */
	struct task_struct *target = (void *)ctx[2], *sender = bpf_get_current_task_btf();
	bool group = ctx[3];
	s64 code;

	if (!target || !sender)
		return 0;
	u64 info = info_of(ctx, &code);

	if (sig == SIGCHLD && code > 0) /* a child has ended: by far the most frequent signal, so it comes first */
		return 0;
	if (sig >= INVALID || outcome >= OUTCOMES)
		return 0;
	u32 cpu = bpf_get_smp_processor_id(), at = EXIT * cpu + DELIVERY;
	struct scratch *scratch = scratch_buffers.lookup(&at);

	if (!scratch)
		return 0;
	struct event *event = &scratch->event;
	struct cause *cause = &event->cause;
	struct running *running = &scratch->running;

	read_running(running, sender);
	BARRIER;
	bool own = sender->tgid == target->tgid;
	bool namespace_end = info == PRIV && sig == SIGKILL && sender->flags & PF_EXITING &&
			     ns_pid_of(sender->group_leader) == 1;
	bool provisional = info == PRIV && sig == SIGKILL && group && !namespace_end;

	cause->flags = namespace_end ? NAMESPACE_END : 0;
	cause->origin = provisional ? provisional_origin(sender, target, running) :
				      origin_of(info, code, sig, group, sender, target, running);
	cause->sig = sig;
	cause->code = code;
	scratch->undecided = provisional && outcome == DELIVERED;
	scratch->fatal = scratch->terminating = false;
	BARRIER;
	if (outcome == DELIVERED || outcome == LOSE_INFO) {
		scratch->fatal = is_fatal(sig);
		scratch->terminating = is_terminating(sig) && !own && cause->origin != SELF;
		BARRIER;
		if (scratch->fatal && is_handled(sig, target)) {
			cause->flags |= HANDLED;
			scratch->fatal = false;
		}
	}
	BARRIER;
	/*
	 * Signals for a process's own files look like those that another process arms against it (F_SETOWN). They count
	 * when they kill or ask the process to exit.
	 */
	bool counted = cause->origin == SELF ? false :
		       cause->origin == SIGIO ? scratch->fatal || scratch->terminating :
						SELF_SIGNALS || code != SI_TKILL || !own;

	if (!counted && !scratch->fatal)
		return 0;
	event->outcome = outcome;
	scratch->emit = false;
	scratch->now = 0;
	BARRIER;
	if (cause->sig == SIGKILL && is_inferred(cause->origin, info, sender, target, running, cause->flags & NAMESPACE_END))
		cause->flags |= INFERRED;
	BARRIER;
	if (cause->sig == SIGURG && own && is_self_test(sender))
		cause->flags |= SELF_TEST;
	BARRIER;
	if (cause->origin == PTRACE && own) { /* injected: the tracer is not running */
		struct task_struct *tracer = target->parent;

		if (tracer)
			sender = tracer;
	}
	scratch->by_kernel = cause->origin != SYSCALL &&
			     (cause->origin == KERNEL || cause->origin == OOM || cause->origin == RLIMIT ||
			      cause->origin == SIGIO || cause->origin == SELF ||
			      (cause->origin == AUTOKILL && sender->flags & PF_KTHREAD) ||
			      (cause->origin == TTY && !sends_by_tty(sender, target, running)));
	BARRIER;
	if (cause->origin == SYSCALL && running->compat)
		cause->flags |= COMPAT;
	cause->bucket_id = scratch->by_kernel ? bucket_of(target) | BY_KERNEL : bucket_of(sender);
	BARRIER;
	if (scratch->by_kernel)
		cause->sender.pid = 0;
	else
		name_sender(&cause->sender, sender);
	BARRIER;
	if (counted && !scratch->undecided) {
		count_delivery(cpu, cause->sig, cause->origin, event->outcome);
		if (cause->flags & SELF_TEST) {
			count_event_status(cpu, DELIVERY, FILTERED);
			scratch->emit = true;
		} else if ((event->outcome == IGNORED || (event->outcome == ALREADY_PENDING && cause->sig == SIGKILL)) &&
			   cause->origin != SYSCALL) {
			/* SIGCONT with SIGHUP; to a dying process, as the OOM killer does to the first one of a memory.oom.group */
			count_event_status(cpu, DELIVERY, FILTERED);
		} else {
			scratch->emit = admit(cpu, DELIVERY, event, cause->sig, cause->bucket_id, scratch->fatal,
					      &scratch->cache, &scratch->now);
		}
	}
	if (!scratch->emit && !scratch->fatal && !scratch->terminating)
		return 0;
	BARRIER;
	event->time_ns = scratch->now ? scratch->now : bpf_ktime_get_boot_ns();
	event->elapsed_ns = 0;
	event->res = event->outcome == OVERFLOW_FAIL ? -EAGAIN : 0; /* what the call returns */
	event->status = 0;
	event->kind = DELIVERY;
	no_text(scratch);
	cause->call = running->call < WRITE ? running->call : 0;
	cause->target_arg = running->target_arg;
	cause->oom_scope = NOT_KNOWN;
	cause->trigger_pid = 0;
	__builtin_memset(cause->trigger_comm, 0, COMM_LEN);
	__builtin_memset(cause->tty, 0, COMM_LEN);
	describe_target(event, target);
	if (scratch->by_kernel)
		describe_nobody(&cause->sender);
	else
		describe_sender(&cause->sender, sender);
	BARRIER;
	if (cause->origin == TTY)
		add_tty(event, target);
	if (scratch->by_kernel && cause->origin != SELF && !own && !(sender->flags & PF_KTHREAD))
		add_trigger(event, sender);
	else if (cause->origin == SYSCALL && sender->ptrace)
		add_trigger(event, sender->parent); /* a tracer can make its tracee call anything */
	BARRIER;
	if (cause->sig == SIGKILL && scratch->fatal)
		mark_escalation(cpu, event);
	BARRIER;
	if (scratch->emit || scratch->undecided) {
		if (!scratch->by_kernel) {
			add_exe(scratch, sender);
			add_cgroup(scratch, sender, &event->cgroup_len);
			add_cmdline(scratch, sender);
			add_ancestors(scratch, sender);
		}
		add_cgroup(scratch, target, &event->tcgroup_len);
		if (scratch->undecided)
			add_memory(scratch, target);
	}
	BARRIER;
	if (scratch->fatal || scratch->terminating)
		remember(event);
	if (scratch->undecided) {
		scratch->claimed = 0;
		change_known(event->tpid, 1);
		if (undecided_kills.update(&event->ttid, scratch) == 0)
			return 0;
		change_known(event->tpid, -1);
		count_delivery(cpu, SIGKILL, cause->origin, DELIVERED);
		scratch->emit = admit(cpu, DELIVERY, event, SIGKILL, cause->bucket_id, true, &scratch->cache,
				      &scratch->now);
	}
	BARRIER;
	if (scratch->emit)
		output_scratch(cpu, DELIVERY, scratch->fatal, scratch);
	return 0;
}

/*
 * BTF tracepoint oom:mark_victim(task, uid), or (pid) on some kernels: the thread that got the OOM killer's SIGKILL just
 * before (__oom_kill_process, mm/oom_kill.c).
 */
int on_mark_victim(u64 *ctx)
{
#if MARK_VICTIM_TASK
	struct task_struct *victim = (void *)ctx[0];

	if (victim)
		decide_kill(victim->pid, true);
#else
	decide_kill(ctx[0], true);
#endif
	return 0;
}

/* Entry of out_of_memory(control): the current task looks for a victim, and mark_victim may follow. */
int on_out_of_memory(u64 *ctx)
{
	u32 zero = 0;
	struct oom_call *call = oom_call.lookup(&zero);

	if (!call)
		return 0;
	call->task = bpf_get_current_pid_tgid();
	call->control = ctx[0];
	return 0;
}

/*
 * The entry programs. They are attached to the hooks, and stay attached when a new version of the programs above takes
 * over (maps.h). A tail call does not return unless the program array is empty.
 */
static __always_inline void count_not_handled(enum program program)
{
	u32 at = bpf_get_smp_processor_id() * ROW + NOT_HANDLED + program;
	u64 *value = counts.lookup(&at);

	if (value)
		__sync_fetch_and_add(value, 1);
}

int sys_exit(void *ctx)
{
	to_sys_exit.call(ctx, 0);
	count_not_handled(SYS_EXIT);
	return 0;
}

int signal_generate(void *ctx)
{
	to_signal_generate.call(ctx, 0);
	count_not_handled(SIGNAL_GENERATE);
	return 0;
}

int mark_victim(void *ctx)
{
	to_mark_victim.call(ctx, 0);
	count_not_handled(MARK_VICTIM);
	return 0;
}

int out_of_memory(void *ctx)
{
	to_out_of_memory.call(ctx, 0);
	count_not_handled(OUT_OF_MEMORY);
	return 0;
}

int sched_process_exit(void *ctx)
{
	to_sched_process_exit.call(ctx, 0);
	count_not_handled(SCHED_PROCESS_EXIT);
	return 0;
}
