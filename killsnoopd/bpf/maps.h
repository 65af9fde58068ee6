/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What outlives a version of the probe: its maps, and the entries that stay attached to the tracepoints. An upgrade
 * whose maps.h is the same goes on with what is pinned; one whose maps.h is not starts at zero.
 */
#pragma once

#define SIGNALS 66 /* 0..64, and 65 for every number that is no signal */
#define RESULTS 8  /* the results that the overflow table tells apart, see overflow_result() */
#define ROUND_UP_8(n) (((n) + 7) / 8 * 8)

enum kind { CALL, DELIVERY, DEATH, KINDS };
enum program { SYS_EXIT, SIGNAL_GENERATE, MARK_VICTIM, SCHED_PROCESS_EXIT, PROGRAMS };
enum event_outcome { FILTERED, RATE_LIMITED, RING_FULL, EMITTED, EVENT_OUTCOMES };
enum origin { SYSCALL, CGROUP, OOM, PDEATHSIG, AUTOKILL, KERNEL, ORIGINS };
enum outcome { DELIVERED, IGNORED, ALREADY_PENDING, OVERFLOW_FAIL, LOSE_INFO, OUTCOMES }; /* trace/events/signal.h */

/*
 * Everything that is counted lives in one memory-mapped array, a row per CPU, so that a scrape is a plain read of memory.
 * The kernel switches off every tracepoint program of a CPU while that CPU is inside a bpf(2) lookup in a hash
 * (bpf_disable_instrumentation, kernel/bpf/syscall.c), and a preempted scraper would leave it off: signals sent
 * meanwhile would be missed. No system call, no gap. A row is written by its own CPU alone, with preemption off; as a
 * signal_generate in an interrupt may run in the midst of another program, each kind of event has cells of its own.
 */
enum cell {
	SERIES = 0, /* SERIES_MAX cells; a cell's meaning is in the slot of the same number of `series` */
	OVERFLOW = SERIES + SERIES_MAX, /* SIGNALS * RESULTS cells: calls that found no free slot */
	AGED = OVERFLOW + SIGNALS * RESULTS, /* as many: calls of names that have lost their slot, being idle */
	DELIVERIES = AGED + SIGNALS * RESULTS, /* SIGNALS * ORIGINS * OUTCOMES cells */
	DEATHS = DELIVERIES + SIGNALS * ORIGINS * OUTCOMES, /* SIGNALS * 2 cells: sender not seen, seen */
	ESCALATIONS = DEATHS + SIGNALS * 2,
	LEDGER, /* KINDS * EVENT_OUTCOMES cells: what became of each event here */
	NOT_HANDLED = LEDGER + KINDS * EVENT_OUTCOMES, /* a cell per program: runs of an entry whose table was empty */
	CELLS = NOT_HANDLED + PROGRAMS,
};
#define ROW ROUND_UP_8(CELLS)

struct series {
	char comm[COMM_LEN]; /* process name, NUL-padded */
	u32 sig;             /* 0..64 or INVALID */
	s32 res;             /* 0, or -errno */
};

/* One event; killsnoopd/event.py decodes it. The sender is the kernel if pid is 0. The target is unknown if tpid is 0. */
struct event {
	u64 time_ns;               /* CLOCK_BOOTTIME: it goes on while the machine sleeps */
	u64 lapse_ns;              /* of a death: since the delivery; of an escalation: since the SIGTERM */
	u64 start_ns, tstart_ns;   /* when the processes started, CLOCK_BOOTTIME: tells users of one pid apart */
	u64 cgroup, tcgroup;       /* ids in the cgroup v2 tree */
	u64 bucket_id;                 /* whose bucket it is on, see bucket_of() */
	u32 pid, tid, uid, ppid;
	u32 loginuid, sessionid;   /* (u32)-1: not set */
	s32 ns_pid, tns_pid;       /* in their own pid namespaces; 0: in the first one; -1: too deep */
	u32 tpid, tuid;
	s32 target_arg, sig, res, code;
	u32 exe_dev, ttid;
	u16 exe_len, cgroup_len, tcgroup_len; /* parts of the text, in this order */
	u8 kind, origin, call, outcome, flags, padding[5];
	char comm[COMM_LEN], thread_comm[COMM_LEN], parent_comm[COMM_LEN], tcomm[COMM_LEN];
};

/*
 * INFERRED: the origin rests on what today's kernels do, not on something that only this origin shows (origin.c).
 * SELF_TEST: one of the two signals by which the daemon tests the probe.
 */
enum flag { COMPAT = 1, ESCALATION = 2, NAMESPACE_END = 4, INFERRED = 8, SELF_TEST = 16 };

/* An event in the making, with the names that are on the paths to the root: leaf first, a NUL after each. */
#define TEXT_MAX 2048 /* a power of two, and room for one more name, so that the verifier sees every index in bounds */
#define NAME_MAX 256
struct scratch {
	struct event event;
	char text[TEXT_MAX + NAME_MAX];
	u32 text_len;
	bool emit, suspect, deadly; /* of a delivery: make an event; wait for the OOM killer; the target may die of it */
	bool by_kernel;             /* the kernel is the sender: whoever runs on this CPU is a bystander */
	u64 now;
	u64 claims; /* of a suspect: 1 once somebody has found out who sent it, and tells it */
};

BPF_F_TABLE("array", u32, u64, counts, CPUS * ROW, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct series, series, SERIES_MAX, BPF_F_MMAPABLE);
/*
 * Which slots are whose. A slot whose name was idle for long is given to a new name (recycle() in counters.c):
 * first it is taken out of `slots` and waits in the queue `retired`; when surely no CPU counts in it any more, its calls
 * move to AGED. VERSION is odd meanwhile, and a reader that sees it change reads again.
 */
enum slot_state { TAKEN, VERSION, QUEUE_HEAD, QUEUE_TAIL, LOCK, SLOT_STATE };
BPF_F_TABLE("array", u32, u64, slot_state, SLOT_STATE, BPF_F_MMAPABLE);
BPF_TABLE("hash", struct series, u32, slots, SERIES_MAX);
struct retired {
	u32 slot, since; /* ticks */
};
BPF_TABLE("array", u32, struct retired, retired, SERIES_MAX);
BPF_TABLE("array", u32, u32, used, SERIES_MAX); /* by slot: the tick of its last use; NEVER: it is in the queue */

/* What a bucket_id has had of its rate, and what it has asked for, see spend(): up to which time, CLOCK_BOOTTIME. */
struct bucket {
	u64 paid_until, requested_until;
};
BPF_TABLE("lru_hash", u64, struct bucket, buckets, 16384); /* by bucket_id; others share two buckets, see over_limit() */
BPF_TABLE("array", u32, struct bucket, newcomers, 2);
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
/*
 * Written by the daemon alone: what became of the events it took (in_flight.py), and, while it tests the probe, its pid
 * (self_test.py). Kept here, the ledger outlives a restart.
 */
#define SELF_TEST_PID 5 /* a word of it: as the daemon knows its pid, in its own pid namespace; 0: no test */
BPF_F_TABLE("array", u32, u64, ledger, 16, BPF_F_MMAPABLE);
BPF_TABLE("array", u32, struct scratch, scratch_buffers, CPUS * 2); /* by CPU and kind, CALL or DELIVERY */

/* The last signal of a number that may end a process: its sender is the killer, if the process dies of that number. */
struct fatal_key {
	u32 tgid, sig;
};
BPF_TABLE("lru_hash", struct fatal_key, struct event, fatal_signals, 8192);

/* SIGKILLs of the kernel's own, by the thread they were sent to, until it is known whether the OOM killer sent them. */
BPF_TABLE("hash", u32, struct scratch, suspects, 64);

/* Processes whose death is counted: two threads that end at once may both take themselves for the last one. */
struct process {
	u64 start_ns, tgid;
};
BPF_TABLE("lru_hash", struct process, u32, dead, 1024);

/*
 * What a CPU found out last, so that a storm costs less: who called, where that is counted, and who is over bucket.
 * Only this CPU touches it, with preemption off.
 */
struct cpu_cache {
	struct series key;
	u32 slot_plus_one; /* 0: nothing yet */
	u32 era;           /* in which that holds */
	u64 bucket_id;         /* is over bucket throughout `jiffy`, in a storm */
	u64 jiffy;
	u32 over;          /* 1: but for what may kill; 2: for everything */
	u32 padding[3];    /* to a cache line */
};

BPF_TABLE("array", u32, struct cpu_cache, cpu_caches, CPUS * 2); /* by CPU and kind, CALL or DELIVERY */

/*
 * What is attached are entries (at the end of killsnoop.bpf.c) that jump to the program that does the work, each by a
 * table of one, so that a new version takes over between one signal and the next: none is seen twice, none by nobody.
 */
BPF_PROG_ARRAY(to_sys_exit, 1);
BPF_PROG_ARRAY(to_signal_generate, 1);
BPF_PROG_ARRAY(to_mark_victim, 1);
BPF_PROG_ARRAY(to_sched_process_exit, 1);
