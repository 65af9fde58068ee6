/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The probe.
 *
 * Exits of the six system calls that send signals: counts every call. A call that fails, or that sends signal 0, makes
 * an event.
 * signal_generate: counts every signal generated for a process, and makes an event of it.
 * oom:mark_victim: identifies the SIGKILLs of the OOM killer.
 * sched_process_exit: counts every process that dies of a signal. The death makes an event if the sender was seen.
 *
 * The loader defines these macros. All are integers that it has validated:
 *   CPUS               possible CPUs
 *   PAGE_SIZE          bytes of a page of memory
 *   SERIES_MAX         number of series (sets of comm, signal and result) with a counter of their own
 *   TTL                ticks without a call after which a series may lose its counter; 0: never
 *   RING_PAGES         size of the event ring buffer, in pages; a power of two
 *   EXCLUDE_LOW/_HIGH  bit set of signals whose events are not emitted: 0..63 / 64 and above
 *   RULES              rules in use in the map `rules`
 *   FATAL_LOW/_HIGH    bit set of signals whose default action ends the process
 *   EVENT_INTERVAL_NS  ns per token of a bucket; 0: no limit
 *   EVENT_BURST_NS     depth of a bucket: (burst - 1) * EVENT_INTERVAL_NS
 *   GRACE_NS           a SIGKILL this soon after a SIGTERM is an escalation
 *   SELF_SIGNALS       1: also count tkill/tgkill to the sender's own process
 *   PROBE_READ         1: programs may read any kernel memory; 0: lockdown=confidentiality forbids it
 *   RDONLY_CAST        placeholder for a call of bpf_rdonly_cast; 0: the kernel has no such function
 *   EVENTS_FD          placeholder for the fd of the map `events`
 *   KERNEL_SIGINFO     BTF id of struct kernel_siginfo
 *   MARK_VICTIM_PID    byte offset of the pid in a record of oom:mark_victim
 *   TASK_*, PID_*, ... byte offsets of fields, from the kernel's BTF (task.h)
 */
#define BPF_LICENSE Dual MIT/GPL

#include "registers.h"
#include "task.h"
#include "maps.h"

#define INVALID 65
#define SIGKILL 9
#define SIGALRM 14
#define SIGTERM 15
#define SIGCHLD 17
#define SIGURG 23
#define SIGVTALRM 26
#define SIGPROF 27
#define EAGAIN 11
#define MAX_ERRNO 4095
#define NO_UNROLL _Pragma("clang loop unroll(disable)")

/* Compiler barrier: reload values from memory, so that the verifier drops what it knew of each branch. */
#define BARRIER asm volatile("" ::: "memory")

/* Our own names: bcc replaces calls of the helpers that it knows if /proc/kallsyms does not list them. */
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_kernel_str)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel_str;

/* bcc translates counts.lookup() and the like only in the main file, so the loader inserts these files here. */
#include "counters.c"
#include "rate_limits.c"
#include "event_scratch.c"
#include "fatal_signals.c"
#include "origin.c"

struct sys_exit {
	u64 common_and_nr[2]; /* 8 bytes (12 on some real-time kernels), then the call's number; `ret` is at 16 in both */
	s64 ret;
};

/*
 * Tracepoints syscalls:sys_exit_{kill,tkill,...}: a system call that sends signals is about to return. The saved
 * registers still hold its arguments.
 */
int on_sys_exit(struct sys_exit *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct running running = running_call(task);
	struct series key = {};
	u32 cpu = bpf_get_smp_processor_id(), index = 2 * cpu + CALL;
	struct cpu_cache *cache = cpu_caches.lookup(&index);
	struct scratch *scratch;

	if (!cache || running.call >= WRITE)
		return 0;
	if (!SELF_SIGNALS && ((running.call == TGKILL && running.target_arg == innermost_pid(task->group_leader)) ||
			      (running.call == TKILL && running.target_arg == innermost_pid(task))))
		return 0;
	/* A thread may have its own name. The name of the process is that of its group leader. */
	read_comm(key.comm, task->group_leader);
	key.sig = running.sig >= 0 && running.sig < INVALID ? running.sig : INVALID;
	/* A tracer or a seccomp filter can make a call return any value. */
	key.res = ctx->ret >= 0 ? 0 : ctx->ret < -MAX_ERRNO ? -MAX_ERRNO : ctx->ret;
	count_call(cpu, &key, cache);
	/* signal_generate has already made an event for each target. */
	if (key.res == 0 && key.sig != 0)
		return 0;
	scratch = scratch_buffers.lookup(&index);
	if (!scratch)
		return 0;
	bool self_test = key.sig == 0 && is_self_test(task);

	scratch->now = 0;
	name_sender(&scratch->event, task);
	if (self_test)
		count_event_status(cpu, CALL, FILTERED);
	else if (!admit(cpu, CALL, &scratch->event, key.sig, bucket_of(task), false, cache, &scratch->now))
		return 0;
	__builtin_memset(&scratch->event, 0, sizeof(scratch->event));
	scratch->event.time_ns = scratch->now ? scratch->now : bpf_ktime_get_boot_ns();
	scratch->event.flags = self_test ? SELF_TEST : 0;
	scratch->event.target_arg = running.target_arg;
	scratch->event.sig = running.sig;
	scratch->event.res = key.res;
	scratch->event.kind = CALL;
	scratch->event.origin = SYSCALL;
	scratch->event.call = running.call;
	describe_sender(&scratch->event, task);
	scratch->text_len = 0;
	add_exe(scratch, task);
	add_cgroup(scratch, task, &scratch->event.cgroup_len);
	output_scratch(cpu, CALL, false, scratch);
	return 0; /* 0: no perf sample */
}

/* BTF tracepoint signal:signal_generate(sig, info, target, group, result). siglock is held and interrupts are off. */
int on_signal_generate(u64 *ctx)
{
	u32 sig = ctx[0], outcome = ctx[4];
	struct task_struct *target = (void *)ctx[2], *sender = bpf_get_current_task_btf();
	bool group = ctx[3];
	s32 code;

	if (!target || !sender)
		return 0;
	enum info info = info_of(ctx, &code);

	if (sig == SIGCHLD && code > 0) /* a child has ended: by far the most frequent signal, so it comes first */
		return 0;
	if (sig >= INVALID || outcome >= OUTCOMES)
		return 0;
	/* Nobody sent these: faults, I/O signals, and the process's own timers. */
	if ((code > 0 && code != SI_KERNEL) ||
	    (info == PRIV && (sig == SIGALRM || sig == SIGVTALRM || sig == SIGPROF))) {
		forget(sig, target);
		return 0;
	}
	struct running running = running_call(sender);

	/*
	 * Timers, message queues and asynchronous I/O use negative codes. So may rt_sigqueueinfo(2): the signal was sent only
	 * if the current call names it.
	 */
	if (code < 0 && code != SI_TKILL && code != SI_QUEUE && (running.call >= WRITE || running.sig != sig)) {
		forget(sig, target);
		return 0;
	}
	bool counted = SELF_SIGNALS || code != SI_TKILL || sender->tgid != target->tgid;
	bool fatal = is_fatal(sig) && (outcome == DELIVERED || outcome == LOSE_INFO);

	if (!counted && !fatal)
		return 0;
	u32 cpu = bpf_get_smp_processor_id(), index = 2 * cpu + DELIVERY;
	struct cpu_cache *cache = cpu_caches.lookup(&index);
	struct scratch *scratch = scratch_buffers.lookup(&index);

	if (!cache || !scratch)
		return 0;
	struct event *event = &scratch->event;
	bool namespace_end = info == PRIV && sig == SIGKILL && sender->flags & PF_EXITING &&
			     ns_pid_of(sender->group_leader) == 1;
	bool undecided = info == PRIV && sig == SIGKILL && group && outcome == DELIVERED && !namespace_end;

	event->origin = undecided ? provisional_origin(sender, target, &running) :
				  origin_of(info, code, sig, group, sender, target, &running);
	event->call = running.call < WRITE ? running.call : 0;
	event->target_arg = running.target_arg;
	event->flags = (namespace_end ? NAMESPACE_END : 0) | (running.compat ? COMPAT : 0);
	event->sig = sig;
	event->code = code;
	event->outcome = outcome;
	scratch->undecided = undecided;
	scratch->fatal = fatal;
	scratch->emit = false;
	scratch->now = 0;
	BARRIER;
	if (event->sig == SIGKILL && is_inferred(event->origin, info, sender, target, &running, event->flags & NAMESPACE_END))
		event->flags |= INFERRED;
	BARRIER;
	if (event->sig == SIGURG && sender->tgid == target->tgid && is_self_test(sender))
		event->flags |= SELF_TEST;
	BARRIER;
	scratch->by_kernel = event->origin == KERNEL || event->origin == OOM ||
			   (event->origin == AUTOKILL && sender->flags & PF_KTHREAD);
	BARRIER;
	if (scratch->by_kernel)
		event->flags &= ~COMPAT; /* the call is a bystander's */
	event->bucket_id = bucket_of(scratch->by_kernel ? target : sender);
	BARRIER;
	if (scratch->by_kernel)
		event->pid = 0;
	else
		name_sender(event, sender);
	BARRIER;
	if (counted && !scratch->undecided) {
		count_delivery(cpu, event->sig, event->origin, event->outcome);
		if (event->flags & SELF_TEST) {
			count_event_status(cpu, DELIVERY, FILTERED);
			scratch->emit = true;
		} else {
			scratch->emit = admit(cpu, DELIVERY, event, event->sig, event->bucket_id, scratch->fatal, cache,
					      &scratch->now);
		}
	}
	if (!scratch->emit && !scratch->fatal)
		return 0;
	BARRIER;
	event->time_ns = scratch->now ? scratch->now : bpf_ktime_get_boot_ns();
	event->elapsed_ns = 0;
	event->res = event->outcome == OVERFLOW_FAIL ? -EAGAIN : 0; /* what the call returns */
	event->kind = DELIVERY;
	event->exe_len = event->cgroup_len = event->tcgroup_len = 0;
	scratch->text_len = 0;
	describe_target(event, target);
	if (scratch->by_kernel)
		describe_kernel(event);
	else
		describe_sender(event, sender);
	BARRIER;
	if (event->sig == SIGKILL && scratch->fatal)
		mark_escalation(cpu, event);
	BARRIER;
	if (scratch->emit || scratch->undecided) {
		if (!scratch->by_kernel) {
			add_exe(scratch, sender);
			add_cgroup(scratch, sender, &event->cgroup_len);
		}
		add_cgroup(scratch, target, &event->tcgroup_len);
	}
	BARRIER;
	if (scratch->fatal)
		remember(event);
	if (scratch->undecided) {
		scratch->claimed = 0;
		if (undecided_kills.update(&event->ttid, scratch) == 0)
			return 0;
		count_delivery(cpu, SIGKILL, event->origin, DELIVERED);
		scratch->emit = admit(cpu, DELIVERY, event, SIGKILL, event->bucket_id, true, cache, &scratch->now);
	}
	BARRIER;
	if (scratch->emit)
		output_scratch(cpu, DELIVERY, scratch->fatal, scratch);
	return 0;
}

/* The origin of an undecided SIGKILL is now known: count it and emit its event. */
static __always_inline void decide_kill(u32 tid, bool oom)
{
	struct scratch *scratch = undecided_kills.lookup(&tid);
	u32 cpu = bpf_get_smp_processor_id();

	if (!scratch || __sync_lock_test_and_set(&scratch->claimed, 1))
		return;
	struct event *event = &scratch->event;

	if (oom) {
		event->origin = OOM;
		event->flags &= ~(INFERRED | COMPAT);
		describe_kernel(event);
		remember(event);
	}
	count_late_delivery(cpu, SIGKILL, event->origin);
	scratch->now = event->time_ns;
	/* Counted as kind DEATH: signal_generate may interrupt this program, and writes the cells of kind DELIVERY. */
	if (admit(cpu, DEATH, event, SIGKILL, event->bucket_id, true, NULL, &scratch->now))
		output_scratch(cpu, DEATH, true, scratch);
	undecided_kills.delete(&tid);
}

struct mark_victim {
	FIELD_AT(MARK_VICTIM_PID, s32 pid); /* the thread that the SIGKILL was sent to */
};

/* Tracepoint oom:mark_victim. It follows the OOM killer's SIGKILL (__oom_kill_process, mm/oom_kill.c). */
int on_mark_victim(struct mark_victim *ctx)
{
	decide_kill(ctx->pid, true);
	return 0;
}

/* BTF tracepoint sched:sched_process_exit(task, ...): a thread ends. */
int on_sched_process_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *signal = task ? task->signal : NULL;

	if (!signal || signal->live > 0)
		return 0; /* other threads of the process still run */
	u32 sig = task->exit_code & 0x7f;
	struct fatal_key key = { task->tgid, sig }, term = { task->tgid, SIGTERM };
	struct process process = { start_of(task->group_leader), task->tgid };
	u32 zero = 0, cpu = bpf_get_smp_processor_id();
	struct event *sent = fatal_signals.lookup(&key);
	bool attributed = sent && sent->tstart_ns == process.start_ns;
	u64 now = 0;

	decide_kill(attributed ? sent->ttid : key.tgid, false);
	if (!sig || sig >= INVALID || dead.insert(&process, &zero))
		return 0;
	add_one(cpu, DEATHS + sig * 2 + attributed);
	if (attributed && admit(cpu, DEATH, sent, sig, sent->bucket_id, true, NULL, &now)) {
		struct event event = *sent;

		event.kind = DEATH;
		event.elapsed_ns = now - sent->time_ns;
		event.time_ns = now;
		event.exe_len = event.cgroup_len = event.tcgroup_len = 0;
		output(cpu, DEATH, true, &event, sizeof(event));
	}
	fatal_signals.delete(&key);
	fatal_signals.delete(&term);
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

int sched_process_exit(void *ctx)
{
	to_sched_process_exit.call(ctx, 0);
	count_not_handled(SCHED_PROCESS_EXIT);
	return 0;
}
