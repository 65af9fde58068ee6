/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The probe: counts every call of the six signal-sending system calls, and emits an event for each that is let through.
 *
 * Macros that the loader defines, all of them integers that it has validated:
 *   CPUS               possible CPUs
 *   SERIES_MAX         (comm, signal, result) sets that get a counter of their own
 *   RING_PAGES         size of the event ring buffer, in pages; a power of two
 *   EXCLUDE_LOW/_HIGH  bit set of signals whose events are not emitted: 0..63 / 64 and above
 *   EVENT_INTERVAL_NS  ns between two events of one uid in the long run; 0: no limit
 *   EVENT_BURST_NS     how far ahead of that a uid may run: (burst - 1) * EVENT_INTERVAL_NS
 *   SELF_SIGNALS       1: count tkill/tgkill to the sender's own process too
 *   TASK_*, PID_*      byte offsets of fields, from the kernel's BTF (task.h)
 */
#define BPF_LICENSE Dual MIT/GPL

#include "task.h"

#define SIGNALS 66      /* 0..64, and 65 for every number that is no signal */
#define INVALID 65
#define RESULTS 8       /* the results that the overflow table tells apart, see overflow_result() */
#define MAX_ERRNO 4095
#define ROUND_UP_8(n) (((n) + 7) / 8 * 8)

/*
 * Everything that is counted lives in one memory-mapped array, a row per CPU, so that a scrape is a plain read of memory.
 * The kernel switches off every tracepoint program of a CPU while that CPU is inside a bpf(2) lookup in a hash
 * (bpf_disable_instrumentation, kernel/bpf/syscall.c), and a preempted scraper would leave it off: signals sent
 * meanwhile would be missed. No system call, no gap. A row is written by its own CPU alone, with preemption off.
 */
enum cell {
	SERIES = 0, /* SERIES_MAX cells; a cell's meaning is in the slot of the same number of `series` */
	OVERFLOW = SERIES + SERIES_MAX, /* SIGNALS * RESULTS cells: calls that found no free slot */
	FILTERED = OVERFLOW + SIGNALS * RESULTS, /* events not emitted, by reason */
	RATE_LIMITED,
	RING_FULL,
	EMITTED, /* events handed to the ring buffer */
	CELLS,
};
#define ROW ROUND_UP_8(CELLS)

struct series {
	char comm[COMM_LEN]; /* process name, NUL-padded */
	u32 sig;             /* 0..64 or INVALID */
	s32 res;             /* 0, or -errno */
};

enum kind { CALL = 0 };

enum call { KILL, TKILL, TGKILL, RT_SIGQUEUEINFO, RT_TGSIGQUEUEINFO, PIDFD_SEND_SIGNAL };

/* One event; killsnoopd/event.py decodes it. */
struct event {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u32 pid, tid, uid, ppid;
	u32 loginuid, sessionid; /* (u32)-1: not set */
	s32 target_arg, sig, res;
	u8 kind, call;
	u16 padding;
	char comm[COMM_LEN], thread_comm[COMM_LEN], parent_comm[COMM_LEN];
};

BPF_F_TABLE("array", u32, u64, counts, CPUS * ROW, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct series, series, SERIES_MAX, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, u64, slots_taken, 1, BPF_F_MMAPABLE);
BPF_TABLE("hash", struct series, u32, slots, SERIES_MAX);
BPF_TABLE("lru_hash", u32, u64, budgets, 4096); /* by uid: the time up to which its events are spoken for */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
/* Written by the daemon alone: what became of the events it took. Kept here, it outlives a restart. */
BPF_F_TABLE("array", u32, u64, ledger, 8, BPF_F_MMAPABLE);

/*
 * What a CPU found out last, so that a storm costs less: who called, where that is counted, and who is over budget.
 * Only this CPU touches it, with preemption off. A slot never changes its meaning, so `slot` is right for good.
 */
struct memo {
	struct series key;
	u32 slot_plus_one; /* 0: nothing yet */
	u32 uid;           /* is over budget throughout `jiffy` */
	u64 jiffy;
	u64 padding[3];    /* to a cache line */
};

BPF_TABLE("array", u32, struct memo, memos, CPUS);

struct sys_exit {
	u64 common;
	s64 nr;
	s64 ret;
};

static __always_inline void add_one(u32 cpu, u32 cell)
{
	u32 at = cpu * ROW + cell;
	u64 *value = counts.lookup(&at);

	if (value)
		*value += 1;
}

static __always_inline u32 overflow_result(s32 res)
{
	switch (res) {
	case 0: return 0;
	case -1: return 1;   /* EPERM */
	case -3: return 2;   /* ESRCH */
	case -9: return 3;   /* EBADF */
	case -11: return 4;  /* EAGAIN */
	case -14: return 5;  /* EFAULT */
	case -22: return 6;  /* EINVAL */
	default: return 7;
	}
}

/* A new set of labels: give it the next free slot. Two CPUs may race for one; the loser's slot stays unused. */
static __always_inline u32 *take_slot(struct series *key)
{
	u32 zero = 0, slot;
	u64 *taken = slots_taken.lookup(&zero);

	if (!taken || *taken >= SERIES_MAX)
		return NULL;
	u64 next = __sync_fetch_and_add(taken, 1);
	if (next >= SERIES_MAX)
		return NULL;
	slot = next;
	struct series *entry = series.lookup(&slot);
	if (!entry)
		return NULL;
	*entry = *key; /* before the slot can be found, so before anything is counted in it */
	slots.insert(key, &slot);
	return slots.lookup(key);
}

static __always_inline bool same(struct series *one, struct series *other)
{
	u64 *a = (u64 *)one, *b = (u64 *)other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

static __always_inline void count_call(u32 cpu, struct series *key, struct memo *memo)
{
	if (memo->slot_plus_one && same(key, &memo->key)) {
		add_one(cpu, SERIES + memo->slot_plus_one - 1);
		return;
	}
	u32 *slot = slots.lookup(key);

	if (!slot)
		slot = take_slot(key);
	if (slot) {
		memo->key = *key;
		memo->slot_plus_one = *slot + 1;
		add_one(cpu, SERIES + *slot);
	} else {
		add_one(cpu, OVERFLOW + key->sig * RESULTS + overflow_result(key->res));
	}
}

static __always_inline bool excluded(u32 sig)
{
	return sig < 64 ? (EXCLUDE_LOW >> sig) & 1 : (EXCLUDE_HIGH >> (sig - 64)) & 1;
}

/*
 * A token bucket per uid, kept as one number, the time up to which the uid's events are spoken for (the generic cell
 * rate algorithm). Two CPUs that write it at once may let one event too many through; none is lost uncounted.
 */
static __always_inline bool over_budget(u32 uid, u64 now)
{
#if EVENT_INTERVAL_NS
	u64 fresh = now + EVENT_INTERVAL_NS;
	u64 *spoken_for = budgets.lookup(&uid);

	if (!spoken_for) {
		budgets.update(&uid, &fresh);
		return false;
	}
	u64 until = *spoken_for;
	if (until < now)
		until = now;
	if (until - now > EVENT_BURST_NS)
		return true;
	*spoken_for = until + EVENT_INTERVAL_NS;
#endif
	return false;
}

static __always_inline void emit(u32 cpu, struct series *key, struct task_struct *task, struct memo *memo, u8 call,
				 s32 target_arg, s32 sig)
{
	if (excluded(key->sig)) {
		add_one(cpu, FILTERED);
		return;
	}
	u32 uid = task->cred->uid;
	u64 jiffy = bpf_jiffies64();

	/* Reading the clock and the budget costs more than all the rest: once a jiffy will do for a uid in a storm. */
	if (memo->uid == uid && memo->jiffy == jiffy) {
		add_one(cpu, RATE_LIMITED);
		return;
	}
	u64 now = bpf_ktime_get_ns();

	if (over_budget(uid, now)) {
		memo->uid = uid;
		memo->jiffy = jiffy;
		add_one(cpu, RATE_LIMITED);
		return;
	}
	struct event *event = events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		add_one(cpu, RING_FULL);
		return;
	}
	u64 ids = bpf_get_current_pid_tgid();
	struct task_struct *parent = task->real_parent;

	event->time_ns = now;
	event->pid = ids >> 32;
	event->tid = ids;
	event->uid = uid;
	event->ppid = parent->tgid;
#ifdef TASK_LOGINUID
	event->loginuid = task->loginuid;
	event->sessionid = task->sessionid;
#else
	event->loginuid = event->sessionid = -1;
#endif
	event->target_arg = target_arg;
	event->sig = sig;
	event->res = key->res;
	event->kind = CALL;
	event->call = call;
	event->padding = 0;
	__builtin_memcpy(event->comm, key->comm, COMM_LEN);
	bpf_get_current_comm(event->thread_comm, COMM_LEN);
	read_comm(event->parent_comm, parent->group_leader);
	events.ringbuf_submit(event, 0);
	add_one(cpu, EMITTED);
}

/* A system call that sends signals is about to return; its arguments are still in the saved registers. */
static __always_inline int on_exit(struct sys_exit *ctx, struct task_struct *task, u8 call, s32 target_arg, s32 sig)
{
	struct series key = {};
	u32 cpu = bpf_get_smp_processor_id();
	struct memo *memo = memos.lookup(&cpu);

	if (!memo)
		return 0;
	/* A thread may have a name of its own; the process is called what its group leader is called. */
	read_comm(key.comm, task->group_leader);
	key.sig = sig >= 0 && sig < INVALID ? sig : INVALID;
	/* A ptracer or seccomp can make a call return anything. */
	key.res = ctx->ret >= 0 ? 0 : ctx->ret < -MAX_ERRNO ? -MAX_ERRNO : ctx->ret;
	count_call(cpu, &key, memo);
	emit(cpu, &key, task, memo, call, target_arg, sig);
	return 0; /* no perf sample */
}

/* A thread id as the thread itself sees it: in its own pid namespace, up to four levels deep; deeper, no number. */
static __always_inline int own_number(struct task_struct *task)
{
	struct pid *pid = task->thread_pid;

	switch (pid->level) {
	case 0: return pid->numbers[0].nr;
	case 1: return pid->numbers[1].nr;
	case 2: return pid->numbers[2].nr;
	case 3: return pid->numbers[3].nr;
	default: return -1;
	}
}

#define CURRENT                                                   \
	struct task_struct *task = bpf_get_current_task_btf();    \
	struct pt_regs *regs = (void *)bpf_task_pt_regs(task)

int exit_kill(struct sys_exit *ctx)
{
	CURRENT;
	return on_exit(ctx, task, KILL, ARG0(regs), ARG1(regs));
}

int exit_tkill(struct sys_exit *ctx)
{
	CURRENT;
	if (!SELF_SIGNALS && (int)ARG0(regs) == own_number(task))
		return 0;
	return on_exit(ctx, task, TKILL, ARG0(regs), ARG1(regs));
}

int exit_tgkill(struct sys_exit *ctx)
{
	CURRENT;
	if (!SELF_SIGNALS && (int)ARG0(regs) == own_number(task->group_leader))
		return 0;
	return on_exit(ctx, task, TGKILL, ARG0(regs), ARG2(regs));
}

int exit_rt_sigqueueinfo(struct sys_exit *ctx)
{
	CURRENT;
	return on_exit(ctx, task, RT_SIGQUEUEINFO, ARG0(regs), ARG1(regs));
}

int exit_rt_tgsigqueueinfo(struct sys_exit *ctx)
{
	CURRENT;
	return on_exit(ctx, task, RT_TGSIGQUEUEINFO, ARG0(regs), ARG2(regs));
}

int exit_pidfd_send_signal(struct sys_exit *ctx)
{
	CURRENT;
	return on_exit(ctx, task, PIDFD_SEND_SIGNAL, ARG0(regs), ARG1(regs));
}
