/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The probe. The exits of the six system calls that send signals: every call is counted; one that failed, or that sent
 * signal 0, makes an event. signal_generate: every signal that reaches a process is counted and makes an event.
 * sched_process_exit: every process that dies of a signal is counted, and makes an event if the sender was seen.
 *
 * Macros that the loader defines, all of them integers that it has validated:
 *   CPUS               possible CPUs
 *   SERIES_MAX         (comm, signal, result) sets that get a counter of their own
 *   TTL                ticks without a call after which such a set may lose it; 0: it never does
 *   RING_PAGES         size of the event ring buffer, in pages; a power of two
 *   EXCLUDE_LOW/_HIGH  bit set of signals whose events are not emitted: 0..63 / 64 and above
 *   FATAL_LOW/_HIGH    bit set of signals whose default action ends the process
 *   EVENT_INTERVAL_NS  ns between two events of one payer in the long run; 0: no limit
 *   EVENT_BURST_NS     how far ahead of that a payer may run: (burst - 1) * EVENT_INTERVAL_NS
 *   GRACE_NS           a SIGKILL that follows a SIGTERM within this time is an escalation
 *   SELF_SIGNALS       1: count tkill/tgkill to the sender's own process too
 *   PROBE_READ         1: the kernel lets programs read any of its memory (no lockdown=confidentiality)
 *   RDONLY_CAST        the number that stands for bpf_rdonly_cast; 0: the kernel has none
 *   EVENTS_FD          the number that stands for the map of that name
 *   KERNEL_SIGINFO     BTF id of struct kernel_siginfo
 *   TASK_*, PID_*, ... byte offsets of fields, from the kernel's BTF (task.h)
 */
#define BPF_LICENSE Dual MIT/GPL

#include "registers.h"
#include "task.h"
#include "memory.h"

#define INVALID 65
#define SIGKILL 9
#define SIGALRM 14
#define SIGTERM 15
#define SIGCHLD 17
#define SIGVTALRM 26
#define SIGPROF 27
#define EAGAIN 11
#define SI_USER 0       /* codes, see sigaction(2) */
#define SI_QUEUE -1
#define SI_TKILL -6
#define SI_KERNEL 0x80
#define MAX_ERRNO 4095
#define DEPTH_MAX 12
#define USER_NS_DEPTH_MAX 33 /* kernel/user_namespace.c */
#define FEW_NEWCOMERS 4      /* at once, that get their whole burst: what the ring buffer can take */
#define RING_BYTES (RING_PAGES * PAGE_SIZE)
#define ROLLED _Pragma("clang loop unroll(disable)")

/* Values are read anew from memory after this: the verifier, too, forgets which way each of them came about. */
#define FORGET asm volatile("" ::: "memory")

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

static __always_inline void count_fate(u32 cpu, enum kind kind, enum fate fate)
{
	add_one(cpu, LEDGER + kind * FATES + fate);
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

/* Seconds, nearly. They stand still while the machine sleeps, as jiffies do: eras are shorter than QUARANTINE. */
static __always_inline u32 tick(void)
{
	return bpf_ktime_get_ns() >> 30;
}

#define NEVER ((u32)-1)
/*
 * A CPU trusts its memo for one era, 1024 jiffies: 10 s at the most (CONFIG_HZ=100). So nobody counts in a slot any more
 * that has been in the queue for longer than that.
 */
#define ERA(jiffies) ((u32)((jiffies) >> 10))
#define QUARANTINE 16 /* ticks */

static __always_inline u64 *directory_entry(u32 which)
{
	return directory.lookup(&which);
}

/* Take a slot out of use if it was idle for long. A few at random for each new name: so the table follows the names. */
static __always_inline void retire(u32 slot, u32 now, u64 *tail)
{
	u32 *last = used.lookup(&slot), at = *tail % SERIES_MAX;
	struct series *key = series.lookup(&slot);
	struct retired *entry = retired.lookup(&at);

	if (!last || !key || !entry || *last == NEVER || (s32)(now - *last) < (s32)TTL)
		return;
	u32 *mapped = slots.lookup(key);

	if (mapped && *mapped == slot)
		slots.delete(key);
	*last = NEVER;
	entry->slot = slot;
	entry->since = now;
	*tail += 1;
}

/*
 * The slot that has waited longest, for a new name. Its calls go where its old name is counted now, if that is back, or
 * else to AGED. Returns SERIES_MAX if none is ripe. Preemption is off and the lock is held.
 */
static __always_inline u32 recycle(u32 cpu, u32 now, struct series *key, u64 *head)
{
	u32 at = *head % SERIES_MAX;
	u64 total = 0, *version = directory_entry(VERSION);
	struct retired *entry = retired.lookup(&at);

	if (!entry || !version || (s32)(now - entry->since) < QUARANTINE)
		return SERIES_MAX;
	u32 slot = entry->slot, *last = used.lookup(&slot);
	struct series *old = series.lookup(&slot);

	*head += 1;
	/* A CPU that had found the slot just before may have overwritten the mark: then it stays, until it has aged again. */
	if (!old || old->sig >= SIGNALS || !last || *last != NEVER)
		return SERIES_MAX;
	u32 *heir = slots.lookup(old);
	u32 to = cpu * ROW + (heir ? SERIES + *heir : AGED + old->sig * RESULTS + overflow_result(old->res));
	u64 *sum = counts.lookup(&to);

	if (!sum)
		return SERIES_MAX;
	__sync_fetch_and_add(version, 1);
	ROLLED for (u32 row = 0; row < CPUS; row++) {
		u32 from = row * ROW + SERIES + slot;
		u64 *value = counts.lookup(&from);

		if (value) {
			total += *value;
			*value = 0;
		}
	}
	*sum += total;
	*old = *key;
	*last = now;
	__sync_fetch_and_add(version, 1);
	return slot;
}

/* One CPU at a time; who comes meanwhile goes without. */
static __always_inline u32 recycled_slot(u32 cpu, struct series *key)
{
	u64 *taken = directory_entry(TAKEN), *head = directory_entry(QUEUE_HEAD), *tail = directory_entry(QUEUE_TAIL),
	    *lock = directory_entry(LOCK);
	u32 now = tick(), slot = SERIES_MAX;

	if (!taken || !head || !tail || !lock || !*taken || __sync_fetch_and_add(lock, 1))
		return SERIES_MAX;
	u32 in_use = *taken < SERIES_MAX ? *taken : SERIES_MAX;

	retire(bpf_get_prandom_u32() % in_use, now, tail);
	retire(bpf_get_prandom_u32() % in_use, now, tail);
	if (*head != *tail)
		slot = recycle(cpu, now, key, head);
	__sync_lock_test_and_set(lock, 0);
	return slot;
}

/* A new set of labels: give it a slot. Two CPUs may race for one; the loser's slot stays unused until it has aged. */
static __always_inline u32 *take_slot(u32 cpu, struct series *key)
{
	u32 slot = SERIES_MAX;
	u64 *taken = directory_entry(TAKEN);

	if (!taken)
		return NULL;
	if (TTL)
		slot = recycled_slot(cpu, key);
	if (slot >= SERIES_MAX) {
		if (*taken >= SERIES_MAX)
			return NULL;
		u64 next = __sync_fetch_and_add(taken, 1);
		if (next >= SERIES_MAX)
			return NULL;
		slot = next;
		struct series *entry = series.lookup(&slot);
		if (!entry)
			return NULL;
		*entry = *key; /* before the slot can be found, so before anything is counted in it */
		u32 now = tick();

		used.update(&slot, &now);
	}
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
	u32 era = ERA(bpf_jiffies64());

	if (memo->slot_plus_one && memo->era == era && same(key, &memo->key)) {
		add_one(cpu, SERIES + memo->slot_plus_one - 1);
		return;
	}
	u32 *slot = slots.lookup(key);

	if (!slot)
		slot = take_slot(cpu, key);
	if (slot) {
		u32 now = tick(), *last = used.lookup(slot);

		if (last && *last != now && *last != NEVER)
			*last = now;
		memo->key = *key;
		memo->slot_plus_one = *slot + 1;
		memo->era = era;
		add_one(cpu, SERIES + *slot);
	} else {
		add_one(cpu, OVERFLOW + key->sig * RESULTS + overflow_result(key->res));
	}
}

static __always_inline bool excluded(u32 sig)
{
	return sig < 64 ? (EXCLUDE_LOW >> sig) & 1 : (EXCLUDE_HIGH >> (sig - 64)) & 1;
}

static __always_inline bool fatal(u32 sig)
{
	return sig < 64 ? (FATAL_LOW >> sig) & 1 : (FATAL_HIGH >> (sig - 64)) & 1;
}

/*
 * Whose budget an event of this task is on: its uid's. In a user namespace many uids may be at one user's command: they are
 * his, or the namespace's if root made it.
 */
static __always_inline u64 payer_of(struct task_struct *task)
{
	struct cred *cred = task->cred;
	struct user_namespace *user_ns = cred->user_ns;

	if (user_ns->level == 0)
		return cred->uid;
	ROLLED for (int i = 0; i < USER_NS_DEPTH_MAX && user_ns->level > 1; i++)
		user_ns = user_ns->parent;
	return user_ns->owner ? user_ns->owner : 1ULL << 32 | user_ns->inum;
}

/*
 * Bytes of the ring buffer that wait to be logged. bcc has no method for this helper: the loader puts the map in the place
 * of that number.
 */
static __always_inline u64 waiting(void)
{
	return bpf_ringbuf_query((void *)bpf_pseudo_fd(1, EVENTS_FD), BPF_RB_AVAIL_DATA);
}

/*
 * How many tokens an event costs after a burst: 1 while next to nothing waits, 2 if a sixteenth of the ring buffer does, 65
 * if half of it does. So those who have spent their bursts share what the daemon and the journal can do, however little that
 * is, and leave room for all others.
 */
static __always_inline u64 price(void)
{
	u64 part = waiting() * 64 / RING_BYTES;

	return 1 + part * part / 16;
}

/*
 * A token bucket, kept as one number, the time up to which events are spoken for (the generic cell rate algorithm). Two
 * CPUs that write it at once may let one event too many through; none is lost uncounted.
 */
static __always_inline bool spend(u64 *spoken_for, u64 now, u64 ahead)
{
	u64 until = *spoken_for;

	if (until < now)
		until = now;
	if (until - now > ahead)
		return false;
	*spoken_for = until + EVENT_INTERVAL_NS * (until - now + EVENT_INTERVAL_NS > EVENT_BURST_NS ? price() : 1);
	return true;
}

/*
 * A bucket per payer. What may kill has a burst more, at the price of the moment: whoever floods us with failures cannot
 * hide a kill behind them.
 * The table holds those seen last; to get into it takes a token of a bucket that all newcomers share (two: one for what
 * may kill), so that whoever commands many uids can neither push others out of it nor get a burst for each.
 */
static __always_inline bool over_budget(u64 payer, bool deadly, u64 now)
{
#if EVENT_INTERVAL_NS
	u64 ahead = deadly ? 2 * EVENT_BURST_NS : EVENT_BURST_NS;
	u64 *spoken_for = budgets.lookup(&payer);

	if (spoken_for)
		return !spend(spoken_for, now, ahead);
	u32 which = deadly;
	u64 *shared = newcomers.lookup(&which);

	if (!shared || !spend(shared, now, EVENT_BURST_NS))
		return true;
	bool crowd = *shared - now > FEW_NEWCOMERS * EVENT_INTERVAL_NS;
	u64 fresh = now + (crowd ? EVENT_BURST_NS : 0) + EVENT_INTERVAL_NS;

	budgets.update(&payer, &fresh);
#endif
	return false;
}

/* Whether an event shall be made; if not, that is counted. */
static __always_inline bool let_through(u32 cpu, enum kind kind, u32 sig, u64 payer, bool deadly, struct memo *memo,
					u64 *now)
{
	if (excluded(sig)) {
		count_fate(cpu, kind, FILTERED);
		return false;
	}
	u64 jiffy = bpf_jiffies64();

	/* Reading the clock and the budget costs more than all the rest: once a jiffy will do for a payer in a storm. */
	if (memo && memo->payer == payer && memo->jiffy == jiffy && memo->over > deadly) {
		count_fate(cpu, kind, RATE_LIMITED);
		return false;
	}
	if (!*now)
		*now = bpf_ktime_get_boot_ns();
	if (over_budget(payer, deadly, *now)) {
		if (memo) {
			memo->payer = payer;
			memo->jiffy = jiffy;
			memo->over = deadly + 1;
		}
		count_fate(cpu, kind, RATE_LIMITED);
		return false;
	}
	return true;
}

/* clang would leave out a mask that it knows to be superfluous; the verifier does not know. */
static __always_inline u32 within_text(u32 end)
{
	asm volatile("" : "+r"(end));
	return end & (TEXT_MAX - 1);
}

/*
 * Where the next name goes; NULL if the text is full. The length is kept in memory, not in a register: the verifier
 * forgets what it knows of it there, and need not follow every number of names through the rest of the program.
 */
static __always_inline char *next_name(struct draft *draft)
{
	u32 end = draft->text_len;

	return end < TEXT_MAX - NAME_MAX ? &draft->text[within_text(end)] : NULL;
}

static __always_inline bool add_name(struct draft *draft, int size)
{
	if (size <= 0)
		return false;
	draft->text_len += size;
	return true;
}

/* Half of the ring buffer is for what may kill alone. */
static __always_inline void output(u32 cpu, enum kind kind, bool deadly, void *record, u32 size)
{
	bool room = deadly || waiting() < RING_BYTES / 2;

	count_fate(cpu, kind, room && !events.ringbuf_output(record, size, 0) ? EMITTED : RING_FULL);
}

static __always_inline void output_draft(u32 cpu, enum kind kind, bool deadly, struct draft *draft)
{
	output(cpu, kind, deadly, draft, sizeof(draft->event) + within_text(draft->text_len));
}

/* A pid as the process itself sees it, in its own pid namespace, up to four levels deep; deeper, -1. */
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

static __always_inline int namespace_number(struct task_struct *leader)
{
	return leader->thread_pid->level ? own_number(leader) : 0;
}

static __always_inline struct kernfs_node *cgroup_node(struct task_struct *task)
{
	struct css_set *css_set = task->cgroups;

	if (!css_set)
		return NULL;
	struct cgroup *cgroup = css_set->dfl_cgrp;

	return cgroup ? cgroup->kn : NULL;
}

static __always_inline void describe_sender(struct event *event, struct task_struct *task)
{
	u64 ids = bpf_get_current_pid_tgid();
	struct task_struct *leader = task->group_leader, *parent = task->real_parent;
	struct kernfs_node *node = cgroup_node(task);

	event->pid = ids >> 32;
	event->tid = ids;
	event->uid = task->cred->uid;
	event->ppid = parent->tgid;
#ifdef TASK_LOGINUID
	event->loginuid = task->loginuid;
	event->sessionid = task->sessionid;
#else
	event->loginuid = event->sessionid = -1;
#endif
	event->ns_pid = namespace_number(leader);
	event->start_ns = leader->start_boottime;
	event->cgroup = node ? node->id : 0;
	read_comm(event->comm, leader);
	bpf_get_current_comm(event->thread_comm, COMM_LEN);
	read_comm(event->parent_comm, parent->group_leader);
}

static __always_inline void describe_kernel(struct event *event)
{
	event->pid = event->tid = event->uid = event->ppid = 0;
	event->loginuid = event->sessionid = -1;
	event->ns_pid = 0;
	event->start_ns = event->cgroup = 0;
	__builtin_memset(event->comm, 0, COMM_LEN);
	__builtin_memset(event->thread_comm, 0, COMM_LEN);
	__builtin_memset(event->parent_comm, 0, COMM_LEN);
}

static __always_inline void describe_target(struct event *event, struct task_struct *target)
{
	struct task_struct *leader = target->group_leader;
	struct kernfs_node *node = cgroup_node(target);

	event->tpid = target->tgid;
	event->ttid = target->pid;
	event->tns_pid = namespace_number(leader);
	event->tuid = target->cred->uid;
	event->tstart_ns = leader->start_boottime;
	event->tcgroup = node ? node->id : 0;
	read_comm(event->tcomm, leader);
}

/*
 * The names from the sender's executable up to the root of its file system. What they are relative to, exe_dev tells
 * user space. Under lockdown only names that the dentry itself holds can be read: with a longer one, no path.
 */
static __always_inline void add_exe(struct draft *draft, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct file *file = mm ? mm->exe_file : NULL;
	struct dentry *dentry = file ? file->dentry : NULL;
	struct super_block *sb = dentry ? dentry->d_sb : NULL;
	u32 start = draft->text_len;

	if (!sb)
		return;
	ROLLED for (int depth = 0; depth < DEPTH_MAX; depth++) {
		char *to = next_name(draft);
		struct dentry *parent = dentry->d_parent;

		if (!to || !parent)
			break;
#if PROBE_READ
		if (!add_name(draft, bpf_probe_read_kernel_str(to, NAME_MAX, dentry->name)))
			break;
#else
		u32 len = dentry->name_len;

		if (len >= SHORT_NAME_LEN)
			break;
#pragma unroll
		for (int word = 0; word < SHORT_NAME_LEN / 8; word++)
			((u64 *)to)[word] = dentry->short_name[word];
		add_name(draft, len + 1);
#endif
		if (parent == dentry) {
			draft->event.exe_dev = sb->s_dev;
			draft->event.exe_len = draft->text_len - start;
			return;
		}
		dentry = parent;
	}
	draft->text_len = start;
}

/* The names from a task's cgroup up to the root. User space can find the path by the id; but not if it is gone. */
static __always_inline void add_cgroup(struct draft *draft, struct task_struct *task, u16 *len)
{
#if PROBE_READ
	struct kernfs_node *node = cgroup_node(task);
	u32 start = draft->text_len;

	ROLLED for (int depth = 0; depth < DEPTH_MAX; depth++) {
		char *to = next_name(draft);

		if (!to || !node || !add_name(draft, bpf_probe_read_kernel_str(to, NAME_MAX, node->name)))
			break;
		node = node->parent;
		if (!node) {
			*len = draft->text_len - start;
			return;
		}
	}
	draft->text_len = start;
#endif
}

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
	struct memo *memo = memos.lookup(&place);
	struct draft *draft;

	if (!memo || running.call >= WRITE)
		return 0;
	if (!SELF_SIGNALS && ((running.call == TGKILL && running.target_arg == own_number(task->group_leader)) ||
			      (running.call == TKILL && running.target_arg == own_number(task))))
		return 0;
	/* A thread may have a name of its own; the process is called what its group leader is called. */
	read_comm(key.comm, task->group_leader);
	key.sig = running.sig >= 0 && running.sig < INVALID ? running.sig : INVALID;
	/* A ptracer or seccomp can make a call return anything. */
	key.res = ctx->ret >= 0 ? 0 : ctx->ret < -MAX_ERRNO ? -MAX_ERRNO : ctx->ret;
	count_call(cpu, &key, memo);
	/* What reached a process was told when it did. */
	if (key.res == 0 && key.sig != 0)
		return 0;
	draft = drafts.lookup(&place);
	if (!draft)
		return 0;
	draft->now = 0;
	if (!let_through(cpu, CALL, key.sig, payer_of(task), false, memo, &draft->now))
		return 0;
	__builtin_memset(&draft->event, 0, sizeof(draft->event));
	draft->event.time_ns = draft->now;
	draft->event.target_arg = running.target_arg;
	draft->event.sig = running.sig;
	draft->event.res = key.res;
	draft->event.kind = CALL;
	draft->event.origin = SYSCALL;
	draft->event.call = running.call;
	describe_sender(&draft->event, task);
	draft->text_len = 0;
	add_exe(draft, task);
	add_cgroup(draft, task, &draft->event.cgroup_len);
	output_draft(cpu, CALL, false, draft);
	return 0; /* no perf sample */
}

static __always_inline void count_delivery(u32 cpu, u32 sig, u32 origin, u32 outcome)
{
	add_one(cpu, DELIVERIES + (sig * ORIGINS + origin) * OUTCOMES + outcome);
}

/* The same, where a signal_generate in an interrupt may come in between. */
static __always_inline void count_late_delivery(u32 cpu, u32 sig, u32 origin)
{
	u32 at = cpu * ROW + DELIVERIES + (sig * ORIGINS + origin) * OUTCOMES + DELIVERED;
	u64 *value = counts.lookup(&at);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * The process may well die of this signal: remember who sent it. A handler that has tidied up often sends the signal to its
 * own process once more, to die of it: then whoever sent the first one is the killer.
 */
static __always_inline void remember(struct event *event)
{
	struct doom key = { event->tpid, event->sig };

	if (event->pid == event->tpid) {
		struct event *first = doomed.lookup(&key);

		if (first && first->tstart_ns == event->tstart_ns && first->pid != first->tpid &&
		    event->time_ns - first->time_ns <= GRACE_NS)
			return;
	}
	doomed.update(&key, event);
}

/* A signal that nobody sent: if the process dies of this number now, it was not he who sent it one before. */
static __always_inline void forget(u32 sig, struct task_struct *target)
{
	struct doom key = { target->tgid, sig };

	if (fatal(sig))
		doomed.delete(&key);
}

/* A SIGKILL to a process that was sent SIGTERM not long ago: whoever sent that ran out of patience. */
static __always_inline void mark_escalation(u32 cpu, struct event *event)
{
	struct doom key = { event->tpid, SIGTERM };
	struct event *term = doomed.lookup(&key);

	if (!term || term->tstart_ns != event->tstart_ns || event->time_ns - term->time_ns > GRACE_NS)
		return;
	event->flags |= ESCALATION;
	event->lapse_ns = event->time_ns - term->time_ns;
	add_one(cpu, ESCALATIONS);
}

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
	bpf_probe_read_kernel(&code, sizeof(code), &siginfo->si_code);
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

/* Where a signal comes from; a sender in user space cannot choose a code that is not negative towards others. */
static __always_inline enum origin origin_of(enum info info, s32 code, u32 sig, bool group, struct task_struct *sender,
					     struct task_struct *target, struct running *running)
{
	if (info == ADDRESS)
		return code != SI_KERNEL && running->call < WRITE ? SYSCALL : KERNEL;
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

/*
 * The OOM killer's SIGKILL looks like this, too: a mark of the kernel's, to a whole process. oom:mark_victim follows at
 * once, but the victim may have died on another CPU before: then this is the answer. A process that runs into its limit
 * of CPU time kills itself, and SysRq kills from a kernel thread or in a write.
 */
static __always_inline enum origin suspected_origin(struct task_struct *sender, struct task_struct *target,
						    struct running *running)
{
	bool own = sender->tgid == target->tgid;

	return own || sender->flags & PF_KTHREAD || running->call == WRITE ? KERNEL : OOM;
}

static __always_inline bool of_kernel(struct event *event)
{
	return event->origin == KERNEL || event->origin == OOM;
}

/* BTF tracepoint signal:signal_generate(sig, info, target, group, result): siglock is held, interrupts are off. */
int on_signal_generate(u64 *ctx)
{
	u32 sig = ctx[0], outcome = ctx[4];
	struct task_struct *target = (void *)ctx[2], *sender = bpf_get_current_task_btf();
	bool group = ctx[3];
	s32 code;
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
	struct memo *memo = memos.lookup(&place);
	struct draft *draft = drafts.lookup(&place);

	if (!memo || !draft)
		return 0;
	struct event *event = &draft->event;
	bool namespace_end = info == PRIV && sig == SIGKILL && sender->flags & PF_EXITING &&
			     namespace_number(sender->group_leader) == 1;
	bool suspect = info == PRIV && sig == SIGKILL && group && outcome == DELIVERED && !namespace_end;

	event->origin = suspect ? suspected_origin(sender, target, &running) :
				  origin_of(info, code, sig, group, sender, target, &running);
	event->call = running.call < WRITE ? running.call : 0;
	event->target_arg = running.target_arg;
	event->flags = (namespace_end ? NAMESPACE_END : 0) | (running.compat ? COMPAT : 0);
	event->sig = sig;
	event->code = code;
	event->outcome = outcome;
	if (of_kernel(event))
		event->payer = payer_of(target);
	else
		event->payer = payer_of(sender);
	draft->suspect = suspect;
	draft->deadly = deadly;
	draft->emit = false;
	draft->now = 0;
	FORGET;
	if (counted && !draft->suspect) {
		count_delivery(cpu, event->sig, event->origin, event->outcome);
		draft->emit = let_through(cpu, DELIVERY, event->sig, event->payer, draft->deadly, memo, &draft->now);
	}
	if (!draft->emit && !draft->deadly)
		return 0;
	FORGET;
	event->time_ns = draft->now ? draft->now : bpf_ktime_get_boot_ns();
	event->lapse_ns = 0;
	event->res = event->outcome == OVERFLOW_FAIL ? -EAGAIN : 0; /* which is what the sender is told */
	event->kind = DELIVERY;
	event->exe_len = event->cgroup_len = event->tcgroup_len = 0;
	draft->text_len = 0;
	describe_target(event, target);
	if (of_kernel(event)) /* whoever runs on this CPU is a bystander */
		describe_kernel(event);
	else
		describe_sender(event, sender);
	FORGET;
	if (event->sig == SIGKILL && draft->deadly)
		mark_escalation(cpu, event);
	FORGET;
	if (draft->emit || draft->suspect) {
		if (!of_kernel(event)) {
			add_exe(draft, sender);
			add_cgroup(draft, sender, &event->cgroup_len);
		}
		add_cgroup(draft, target, &event->tcgroup_len);
	}
	FORGET;
	if (draft->deadly)
		remember(event);
	if (draft->suspect) {
		draft->claims = 0;
		if (suspects.update(&event->ttid, draft) == 0)
			return 0;
		count_delivery(cpu, SIGKILL, event->origin, DELIVERED);
		draft->emit = let_through(cpu, DELIVERY, SIGKILL, event->payer, true, memo, &draft->now);
	}
	FORGET;
	if (draft->emit)
		output_draft(cpu, DELIVERY, draft->deadly, draft);
	return 0;
}

/* It is known by now who sent this SIGKILL: count and tell it. */
static __always_inline void resolve(u32 tid, bool oom)
{
	struct draft *draft = suspects.lookup(&tid);
	u32 cpu = bpf_get_smp_processor_id();

	if (!draft || __sync_fetch_and_add(&draft->claims, 1))
		return;
	struct event *event = &draft->event;

	if (oom) {
		event->origin = OOM;
		remember(event);
	}
	count_late_delivery(cpu, SIGKILL, event->origin);
	draft->now = event->time_ns;
	/* In the cells of kind DEATH: a signal_generate in an interrupt writes those of kind DELIVERY. */
	if (let_through(cpu, DEATH, SIGKILL, event->payer, true, NULL, &draft->now))
		output_draft(cpu, DEATH, true, draft);
	suspects.delete(&tid);
}

struct mark_victim {
	u64 common;
	s32 pid; /* of the thread that the SIGKILL was sent to */
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
	u32 sig = task->exit_code & 0x7f;

	if (task->signal->live > 0)
		return 0; /* other threads still run */
	struct doom key = { task->tgid, sig }, term = { task->tgid, SIGTERM };
	struct process process = { task->group_leader->start_boottime, task->tgid };
	u32 zero = 0, cpu = bpf_get_smp_processor_id();
	struct event *sent = doomed.lookup(&key);
	bool attributed = sent && sent->tstart_ns == process.start_ns;
	u64 now = 0;

	resolve(attributed ? sent->ttid : key.tgid, false);
	if (!sig || sig >= INVALID || dead.insert(&process, &zero))
		return 0;
	add_one(cpu, DEATHS + sig * 2 + attributed);
	if (attributed && let_through(cpu, DEATH, sig, sent->payer, true, NULL, &now)) {
		struct event event = *sent;

		event.kind = DEATH;
		event.lapse_ns = now - sent->time_ns;
		event.time_ns = now;
		event.exe_len = event.cgroup_len = event.tcgroup_len = 0;
		output(cpu, DEATH, true, &event, sizeof(event));
	}
	doomed.delete(&key);
	doomed.delete(&term);
	return 0;
}

/*
 * The entries: what is attached, and stays so when a new version of the programs above takes over (memory.h). A jump does
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
