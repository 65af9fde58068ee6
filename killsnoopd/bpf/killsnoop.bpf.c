/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The probe. The exits of the six system calls that send signals: every call is counted; one that failed, or that sent
 * signal 0, makes an event. signal_generate: every signal that reaches a process is counted and makes an event.
 * sched_process_exit: every process that dies of a signal is counted, and makes an event if the sender was seen.
 *
 * Macros that the loader defines, all of them integers that it has validated:
 *   CPUS               possible CPUs
 *   PAGE_SIZE          bytes of a page of memory
 *   SERIES_MAX         (comm, signal, result) sets that get a counter of their own
 *   TTL                ticks without a call after which such a set may lose it; 0: it never does
 *   RING_PAGES         size of the event ring buffer, in pages; a power of two
 *   EXCLUDE_LOW/_HIGH  bit set of signals whose events are not emitted: 0..63 / 64 and above
 *   FATAL_LOW/_HIGH    bit set of signals whose default action ends the process
 *   EVENT_INTERVAL_NS  ns between two events of one bucket_id in the long run; 0: no limit
 *   EVENT_BURST_NS     how far ahead of that a bucket_id may run: (burst - 1) * EVENT_INTERVAL_NS
 *   GRACE_NS           a SIGKILL that follows a SIGTERM within this time is an escalation
 *   SELF_SIGNALS       1: count tkill/tgkill to the sender's own process too
 *   PROBE_READ         1: the kernel lets programs read any of its memory (no lockdown=confidentiality)
 *   RDONLY_CAST        the number that stands for bpf_rdonly_cast; 0: the kernel has none
 *   EVENTS_FD          the number that stands for the map of that name
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
#define ROLLED _Pragma("clang loop unroll(disable)")

/* Values are read anew from memory after this: the verifier, too, forgets which way each of them came about. */
#define BARRIER asm volatile("" ::: "memory")

/* Under names of our own: bcc replaces those that it knows where it cannot find them in /proc/kallsyms. */
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_kernel_str)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel_str;

/* bcc understands counts.lookup() and the like in the main file alone: the loader puts these in place of their lines. */
#include "counters.c"
#include "rate_limits.c"
#include "event_scratch.c"
#include "fatal_signals.c"
#include "origin.c"

struct sys_exit {
	u64 common_and_nr[2]; /* 8 bytes and a number, or 12 on some kernels for real time: the next 8 begin at 16 */
	s64 ret;
};

/*
 * Tracepoints syscalls:sys_exit_{kill,tkill,...}: a system call that sends signals is about to return; its arguments are
 * still in the saved registers.
 */
int on_sys_exit(struct sys_exit *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct running running = running_call(task);
	struct series key = {};
	u32 cpu = bpf_get_smp_processor_id(), place = 2 * cpu + CALL;
	struct cpu_cache *cache = cpu_caches.lookup(&place);
	struct scratch *scratch;

	if (!cache || running.call >= WRITE)
		return 0;
	if (!SELF_SIGNALS && ((running.call == TGKILL && running.target_arg == own_number(task->group_leader)) ||
			      (running.call == TKILL && running.target_arg == own_number(task))))
		return 0;
	/* A thread may have a name of its own; the process is called what its group leader is called. */
	read_comm(key.comm, task->group_leader);
	key.sig = running.sig >= 0 && running.sig < INVALID ? running.sig : INVALID;
	/* A ptracer or seccomp can make a call return anything. */
	key.res = ctx->ret >= 0 ? 0 : ctx->ret < -MAX_ERRNO ? -MAX_ERRNO : ctx->ret;
	count_call(cpu, &key, cache);
	/* What reached a process was told when it did. */
	if (key.res == 0 && key.sig != 0)
		return 0;
	scratch = scratch_buffers.lookup(&place);
	if (!scratch)
		return 0;
	bool self_test = key.sig == 0 && is_self_test(task);

	scratch->now = 0;
	if (self_test)
		count_event_outcome(cpu, CALL, FILTERED);
	else if (!admit(cpu, CALL, key.sig, bucket_of(task), false, cache, &scratch->now))
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
	return 0; /* no perf sample */
}

/* BTF tracepoint signal:signal_generate(sig, info, target, group, result): siglock is held, interrupts are off. */
int on_signal_generate(u64 *ctx)
{
	u32 sig = ctx[0], outcome = ctx[4];
	struct task_struct *target = (void *)ctx[2], *sender = bpf_get_current_task_btf();
	bool group = ctx[3];
	s32 code;

	if (!target || !sender)
		return 0;
	enum info info = info_of(ctx, &code);

	if (sig == SIGCHLD && code > 0) /* by far the most frequent: a child has ended */
		return 0;
	if (sig >= INVALID || outcome >= OUTCOMES)
		return 0;
	/* Faults, file descriptors, a process's own clocks: nobody sent these. */
	if ((code > 0 && code != SI_KERNEL) ||
	    (info == PRIV && (sig == SIGALRM || sig == SIGVTALRM || sig == SIGPROF))) {
		forget(sig, target);
		return 0;
	}
	struct running running = running_call(sender);

	/* Timers, message queues and asynchronous I/O have codes that rt_sigqueueinfo(2) may use too. */
	if (code < 0 && code != SI_TKILL && code != SI_QUEUE && (running.call >= WRITE || running.sig != sig)) {
		forget(sig, target);
		return 0;
	}
	bool counted = SELF_SIGNALS || code != SI_TKILL || sender->tgid != target->tgid;
	bool deadly = fatal(sig) && (outcome == DELIVERED || outcome == LOSE_INFO);

	if (!counted && !deadly)
		return 0;
	u32 cpu = bpf_get_smp_processor_id(), place = 2 * cpu + DELIVERY;
	struct cpu_cache *cache = cpu_caches.lookup(&place);
	struct scratch *scratch = scratch_buffers.lookup(&place);

	if (!cache || !scratch)
		return 0;
	struct event *event = &scratch->event;
	bool namespace_end = info == PRIV && sig == SIGKILL && sender->flags & PF_EXITING &&
			     namespace_number(sender->group_leader) == 1;
	bool self_test = sig == SIGURG && sender->tgid == target->tgid && is_self_test(sender);
	bool suspect = info == PRIV && sig == SIGKILL && group && outcome == DELIVERED && !namespace_end;

	event->origin = suspect ? suspected_origin(sender, target, &running) :
				  origin_of(info, code, sig, group, sender, target, &running);
	event->call = running.call < WRITE ? running.call : 0;
	event->target_arg = running.target_arg;
	scratch->by_kernel = event->origin == KERNEL || event->origin == OOM ||
			   (event->origin == AUTOKILL && sender->flags & PF_KTHREAD);
	event->flags = (namespace_end ? NAMESPACE_END : 0) | (running.compat && !scratch->by_kernel ? COMPAT : 0) |
		       (self_test ? SELF_TEST : 0);
	if (sig == SIGKILL && is_inferred(event->origin, info, sender, target, &running, namespace_end))
		event->flags |= INFERRED;
	event->sig = sig;
	event->code = code;
	event->outcome = outcome;
	event->bucket_id = bucket_of(scratch->by_kernel ? target : sender);
	scratch->suspect = suspect;
	scratch->deadly = deadly;
	scratch->emit = false;
	scratch->now = 0;
	BARRIER;
	if (counted && !scratch->suspect) {
		count_delivery(cpu, event->sig, event->origin, event->outcome);
		if (event->flags & SELF_TEST) {
			count_event_outcome(cpu, DELIVERY, FILTERED);
			scratch->emit = true;
		} else {
			scratch->emit = admit(cpu, DELIVERY, event->sig, event->bucket_id, scratch->deadly, cache, &scratch->now);
		}
	}
	if (!scratch->emit && !scratch->deadly)
		return 0;
	BARRIER;
	event->time_ns = scratch->now ? scratch->now : bpf_ktime_get_boot_ns();
	event->lapse_ns = 0;
	event->res = event->outcome == OVERFLOW_FAIL ? -EAGAIN : 0; /* which is what the sender is told */
	event->kind = DELIVERY;
	event->exe_len = event->cgroup_len = event->tcgroup_len = 0;
	scratch->text_len = 0;
	describe_target(event, target);
	if (scratch->by_kernel)
		describe_kernel(event);
	else
		describe_sender(event, sender);
	BARRIER;
	if (event->sig == SIGKILL && scratch->deadly)
		mark_escalation(cpu, event);
	BARRIER;
	if (scratch->emit || scratch->suspect) {
		if (!scratch->by_kernel) {
			add_exe(scratch, sender);
			add_cgroup(scratch, sender, &event->cgroup_len);
		}
		add_cgroup(scratch, target, &event->tcgroup_len);
	}
	BARRIER;
	if (scratch->deadly)
		remember(event);
	if (scratch->suspect) {
		scratch->claims = 0;
		if (suspects.update(&event->ttid, scratch) == 0)
			return 0;
		count_delivery(cpu, SIGKILL, event->origin, DELIVERED);
		scratch->emit = admit(cpu, DELIVERY, SIGKILL, event->bucket_id, true, cache, &scratch->now);
	}
	BARRIER;
	if (scratch->emit)
		output_scratch(cpu, DELIVERY, scratch->deadly, scratch);
	return 0;
}

/* It is known by now who sent this SIGKILL: count and tell it. */
static __always_inline void resolve(u32 tid, bool oom)
{
	struct scratch *scratch = suspects.lookup(&tid);
	u32 cpu = bpf_get_smp_processor_id();

	if (!scratch || __sync_lock_test_and_set(&scratch->claims, 1))
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
	/* In the cells of kind DEATH: a signal_generate in an interrupt writes those of kind DELIVERY. */
	if (admit(cpu, DEATH, SIGKILL, event->bucket_id, true, NULL, &scratch->now))
		output_scratch(cpu, DEATH, true, scratch);
	suspects.delete(&tid);
}

struct mark_victim {
	FIELD_AT(MARK_VICTIM_PID, s32 pid); /* of the thread that the SIGKILL was sent to */
};

/* Tracepoint oom:mark_victim: right after the OOM killer's SIGKILL (__oom_kill_process). */
int on_mark_victim(struct mark_victim *ctx)
{
	resolve(ctx->pid, true);
	return 0;
}

/* BTF tracepoint sched:sched_process_exit(task, ...): a thread ends. */
int on_sched_process_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *signal = task ? task->signal : NULL;

	if (!signal || signal->live > 0)
		return 0; /* other threads still run */
	u32 sig = task->exit_code & 0x7f;
	struct fatal_key key = { task->tgid, sig }, term = { task->tgid, SIGTERM };
	struct process process = { start_of(task->group_leader), task->tgid };
	u32 zero = 0, cpu = bpf_get_smp_processor_id();
	struct event *sent = fatal_signals.lookup(&key);
	bool attributed = sent && sent->tstart_ns == process.start_ns;
	u64 now = 0;

	resolve(attributed ? sent->ttid : key.tgid, false);
	if (!sig || sig >= INVALID || dead.insert(&process, &zero))
		return 0;
	add_one(cpu, DEATHS + sig * 2 + attributed);
	if (attributed && admit(cpu, DEATH, sig, sent->bucket_id, true, NULL, &now)) {
		struct event event = *sent;

		event.kind = DEATH;
		event.lapse_ns = now - sent->time_ns;
		event.time_ns = now;
		event.exe_len = event.cgroup_len = event.tcgroup_len = 0;
		output(cpu, DEATH, true, &event, sizeof(event));
	}
	fatal_signals.delete(&key);
	fatal_signals.delete(&term);
	return 0;
}

/*
 * The entries: what is attached, and stays so when a new version of the programs above takes over (maps.h). A jump does
 * not return, unless there is nothing to jump to: somebody emptied the table.
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
