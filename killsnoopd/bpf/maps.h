/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The maps. Pinned, they outlive the daemon and the version of the probe. A new version whose maps.h declares the same
 * layout takes over the pinned maps; any other version starts at zero.
 */
#pragma once

#define SIGNALS 66 /* 0..64, and 65 for every number that is not a signal */
#define RESULTS 8  /* the results that the overflow table distinguishes, see overflow_result() */
#define ROUND_UP_8(n) (((n) + 7) / 8 * 8)

enum kind { CALL, DELIVERY, DEATH, EXIT, KINDS };
enum program { SYS_EXIT, SIGNAL_GENERATE, MARK_VICTIM, OUT_OF_MEMORY, SCHED_PROCESS_EXIT, PROGRAMS };
enum event_status { FILTERED, RATE_LIMITED, RING_FULL, EMITTED, EVENT_STATUSES };
/* Origins of a generated signal, and two more of a death: see origin_of() in origin.c. */
enum origin {
	SYSCALL, CGROUP, OOM, PDEATHSIG, AUTOKILL, PTRACE, TTY, SIGIO, EXIT_SIGNAL, RLIMIT, KERNEL,
	ORIGINS,
	SELF = ORIGINS, /* nobody else: a fault, or a signal that the process sent itself */
	UNKNOWN,        /* the probe did not see a signal */
	DEATH_ORIGINS,
};
enum outcome { DELIVERED, IGNORED, ALREADY_PENDING, OVERFLOW_FAIL, LOSE_INFO, OUTCOMES }; /* trace/events/signal.h */

/*
 * All counters are cells of one memory-mapped array with a row per CPU, so a scrape reads plain memory. A bpf(2) lookup
 * in a hash would lose signals: while a CPU is inside such a lookup, the kernel skips every tracepoint program on it
 * (bpf_disable_instrumentation, kernel/bpf/syscall.c), and a scraper that is preempted there keeps them off.
 *
 * Only its own CPU writes a row, with preemption off. A signal_generate in an interrupt may interrupt another program,
 * so each kind of event has its own cells.
 */
#define SLOTS (SERIES_MAX + DEATHS_MAX)
#define OVERFLOWS (SIGNALS * (RESULTS + DEATH_ORIGINS)) /* calls by signal and result, deaths by signal and origin */
enum cell {
	SERIES = 0, /* SLOTS cells: those of SENDERS, those of VICTIMS */
	OVERFLOW = SERIES + SLOTS, /* OVERFLOWS cells: what found no free slot */
	AGED = OVERFLOW + OVERFLOWS, /* OVERFLOWS cells: what idle series that lost their slot have counted */
	DELIVERIES = AGED + OVERFLOWS, /* SIGNALS * ORIGINS * OUTCOMES cells */
	EXITS = DELIVERIES + SIGNALS * ORIGINS * OUTCOMES, /* SIGNALS cells: exits soon after a handled signal, see ends.c */
	ESCALATIONS = EXITS + SIGNALS,
	LEDGER, /* KINDS * EVENT_STATUSES cells: the status of each event in the probe */
	NOT_HANDLED = LEDGER + KINDS * EVENT_STATUSES, /* a cell per program: runs of an entry whose array was empty */
	CELLS = NOT_HANDLED + PROGRAMS,
};
#define ROW ROUND_UP_8(CELLS)

/* The tables of series, and the key of each: calls by sender, deaths by sender and victim. */
enum table { SENDERS, VICTIMS, TABLES };
struct series {
	char comm[COMM_LEN]; /* process name, NUL-padded */
	u32 sig;             /* 0..64 or INVALID */
	s32 res;             /* 0, or -errno */
};
#define UNIT_LEN 64
#define POD_UID_LEN 40
struct victim {
	char comm[COMM_LEN];  /* the sender's process name; empty: nobody else sent the signal */
	char tcomm[COMM_LEN]; /* the victim's */
	char unit[UNIT_LEN];  /* the victim's systemd unit, NUL-padded: its first 63 bytes; see read_unit_and_pod() in deaths.c */
	char pod_uid[POD_UID_LEN]; /* the uid of the victim's pod as the cgroup's name has it, NUL-padded */
	u32 sig, origin;
};

/* A process that sends a signal, at that moment. pid 0: the kernel sent it, or nobody did. */
struct sender {
	u64 start_ns; /* CLOCK_BOOTTIME; with the pid it identifies a process */
	u64 cgroup;   /* id in the cgroup v2 tree */
	u32 pid, tid, uid, ppid;
	u32 loginuid, sessionid; /* (u32)-1: not set */
	s32 ns_pid; /* in its own pid namespace; 0: the initial one; -1: nested too deeply */
	u32 exe_dev;
	char comm[COMM_LEN], thread_comm[COMM_LEN], parent_comm[COMM_LEN];
};

/* What an event and a remembered signal (struct sent) have in common: the signal, and where it came from. */
struct cause {
	struct sender sender;
	u64 bucket_id; /* the sender whose token buckets pay for the event, see bucket_of() */
	s32 target_arg, sig, code;
	u32 trigger_pid; /* see add_trigger() */
	u8 origin, call, flags, oom_scope, padding[4];
	char trigger_comm[COMM_LEN];
	char tty[COMM_LEN]; /* the target's terminal, for origin TTY */
};

/* One event; killsnoopd/event.py decodes it. tpid 0: the target is not known. */
struct event {
	u64 time_ns;    /* CLOCK_BOOTTIME, which includes suspend */
	u64 elapsed_ns; /* of a death or an exit: since the signal; of an escalation: since the SIGTERM */
	struct cause cause;
	u64 tstart_ns, tcgroup;
	u32 tpid, ttid, tuid;
	s32 tns_pid, res;
	s32 status; /* of an exit: the status */
	u16 exe_len, cgroup_len, cmdline_len, ancestors_len, tcgroup_len, memory_len; /* of the parts of the text, in this order */
	u8 kind, outcome, cmdline, padding_2;
	char tcomm[COMM_LEN];
};

/* The memory of an OOM kill's victim, in bytes. */
struct memory {
	s64 anon, file, shmem, page_tables;
	s32 oom_score_adj, padding;
};

/* Whose memory was used up, of an OOM kill; from MACHINE to MEMORY_CGROUP as enum oom_constraint (linux/oom.h). */
enum oom_scope { NOT_KNOWN, MACHINE, CPUSET, MEMORY_POLICY, MEMORY_CGROUP, SYSRQ, OOM_SCOPES };

/* What the text has of the sender's command line; UNREAD: nothing, though there is one. */
enum cmdline { NONE, WHOLE, CUT, UNREAD, CMDLINES };

/*
 * INFERRED: the origin is the likeliest one; nothing rules out the others (is_inferred() in origin.c).
 * SELF_TEST: one of the two signals that the daemon sends to test the probe.
 * HANDLED: the target handles the signal, so that it need not die of it.
 */
enum flag { COMPAT = 1, ESCALATION = 2, NAMESPACE_END = 4, INFERRED = 8, SELF_TEST = 16, HANDLED = 32 };

/*
 * The last signals that may end a process: the last SIGKILL, the last SIGTERM, and the last of all others. A process has
 * an entry from the first such signal until it ends.
 */
enum slot { KILL_SLOT, TERM_SLOT, OTHER_SLOT, HISTORY };
struct sent {
	u64 time_ns;
	struct cause cause; /* sig 0: no such signal yet */
	u32 ttid, padding;
};
struct history {
	u64 start_ns; /* of the process */
	u64 payer;    /* the bucket_id whose share of the table the entry is in */
	struct sent sent[HISTORY];
};

/*
 * What a CPU found out last, which makes storms cheaper: the slot of a series, and a bucket that was over its limit. Only
 * its own CPU uses it, with preemption off.
 */
struct cpu_cache {
	struct series key;
	u32 slot_plus_one; /* slot of `key`; 0: none */
	u32 era;           /* the era in which the slot is valid */
	u64 bucket_id;     /* over its limit throughout `jiffy` */
	u64 jiffy;
};

/*
 * Scratch buffer for one event and its text: three lists of names, each name ending with a NUL; the sender's command line
 * and ancestors; the memory of an OOM kill's victim.
 *
 * Executable: from the file up to the root of its file system; without the root: shortened. The name "/" before the last
 * one stands for a name that could not be read.
 * Cgroups: from the root, whose name is empty, down. The name "/": the owner of the cgroup before it is not root.
 * Command line: the bytes of its arguments, each ending with a NUL.
 * Ancestors of the sender: pid (u32) and comm of each, nearest first.
 * Memory: a struct memory, of a SIGKILL that may be the OOM killer's; and the cgroups down to the one that reached its
 * limit, of the scope MEMORY_CGROUP.
 */
#define TEXT_MAX 4096 /* a power of two; `text` holds one more part, so that the verifier sees every index in bounds */
#define NAME_MAX 256
#define CMDLINE_MAX 512
#define ANCESTORS_MAX 16
struct scratch {
	struct event event;
	char text[TEXT_MAX + CMDLINE_MAX];
	u32 text_len;
	/* Of a delivery: emit an event; wait for oom:mark_victim; the target will die of it unless it blocks it. */
	bool emit, undecided, fatal;
	bool by_kernel; /* the kernel is the sender: the current task has nothing to do with it */
	bool terminating; /* the target may exit because of it */
	struct running running; /* of a delivery: in memory, where the verifier does not track its values */
	u64 now;
	struct victim victim; /* of a death */
	/* Of the victim's cgroups, from the root down; in memory, as `running`. */
	bool in_scope, not_only_slices, below_kubepods;
	u8 type; /* enum unit_type, of the last one */
	u32 name_end; /* of the last one, in the text */
	u64 claimed; /* of an undecided SIGKILL: 1 once a CPU has decided its origin */
	struct cpu_cache cache; /* of calls and deliveries */
};

BPF_F_TABLE("array", u32, u64, counts, CPUS * ROW, BPF_F_MMAPABLE);
/* Keys of the slots, and slots of the keys: those of SENDERS are numbered from 0, those of VICTIMS from SERIES_MAX. */
BPF_F_TABLE("array", u32, struct series, series, SERIES_MAX, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct victim, victims, DEATHS_MAX, BPF_F_MMAPABLE);
BPF_TABLE("hash", struct series, u32, slots, SERIES_MAX);
BPF_TABLE("hash", struct victim, u32, victim_slots, DEATHS_MAX);
/*
 * A slot whose series is idle goes to a new series of its table (recycle() in counters.c): it is first removed from
 * `slots` and waits in the queue `retired`. Once no CPU can still count in it, what it counted moves to AGED. VERSION is
 * odd while that moves; a reader that sees it change reads again.
 */
enum slot_state { TAKEN, VERSION, QUEUE_HEAD, QUEUE_TAIL, LOCK, SLOT_STATE };
BPF_F_TABLE("array", u32, u64, slot_state, TABLES * SLOT_STATE, BPF_F_MMAPABLE);
struct retired {
	u32 slot, since; /* ticks */
};
BPF_TABLE("array", u32, struct retired, retired, SLOTS); /* the queue of SENDERS, that of VICTIMS */
/*
 * When each slot was last used, CLOCK_BOOTTIME in ns, or QUEUED; behind the slots, the same of each OVERFLOW cell. 0: never.
 * A CPU that has the slot in its cache does not write it, so it is up to an era late.
 */
BPF_F_TABLE("array", u32, u64, last_used, SLOTS + OVERFLOWS, BPF_F_MMAPABLE);

/*
 * The labels of the pods that victims were in, by uid (pod_labels.py). Only the daemon uses it. As a map, it outlives a
 * restart, when the kubelet may no longer list the pod.
 */
struct pod_label {
	char uid[POD_UID_LEN], label[320]; /* NUL-padded; NAMESPACE/POD has at most 63 + 1 + 253 bytes */
};
BPF_F_TABLE("array", u32, struct pod_label, pod_labels, DEATHS_MAX, BPF_F_MMAPABLE);

/* Token buckets: the times up to which tokens are paid and requested, CLOCK_BOOTTIME; see take_tokens(). */
struct bucket {
	u64 paid_until, requested_until;
};
BPF_TABLE("lru_hash", u64, struct bucket, buckets, 16384); /* by bucket_id */
BPF_TABLE("array", u32, struct bucket, shared_buckets, 2); /* shared by ids not in `buckets`, see over_limit() */
/*
 * Rules of --events.exclude, written by the loader: events of these signals by senders of this name and uid are not made.
 * A mask of 0 stands for any name or uid.
 */
#define RULES_MAX 16
struct rule {
	u64 signals[2]; /* bit set: 0..63, 64 and above; empty if the rule is not used */
	u64 comm[COMM_LEN / 8], comm_mask[COMM_LEN / 8];
	u32 uid, uid_mask;
};
BPF_TABLE("array", u32, struct rule, rules, RULES_MAX);
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
/*
 * The daemon's half of the ledger: the status of each event it read (in_flight.py) and, during the self-test, its pid
 * (self_test.py). Only the daemon writes it. As a map, it outlives a restart.
 */
#define SELF_TEST_PID 6 /* index of the pid, as seen in the daemon's own pid namespace; 0: no test is running */
BPF_F_TABLE("array", u32, u64, ledger, 16, BPF_F_MMAPABLE);
BPF_TABLE("array", u32, struct scratch, scratch_buffers, CPUS * EXIT); /* by CPU and kind; an exit uses that of DEATH */

/*
 * By tgid. Entries go when their processes do. A payer has a share of them, so that no user can push out the entries of
 * others. An LRU in case an exit is missed.
 */
#define HISTORIES_MAX 8192
BPF_TABLE("lru_hash", u32, struct history, histories, HISTORIES_MAX);
BPF_TABLE("array", u32, struct history, no_history, 1); /* all zero, to begin an entry with */
BPF_TABLE("lru_hash", u64, u32, history_shares, 4096); /* by payer: its entries in `histories` */

/* SIGKILLs that the OOM killer may have sent, by target thread, until oom:mark_victim or the exit decides. */
BPF_TABLE("hash", u32, struct scratch, undecided_kills, 64);

/* The last call of out_of_memory(): the task, and its struct oom_control. Calls hold a mutex of which there is one. */
struct oom_call {
	u64 task, control;
};
BPF_TABLE("array", u32, struct oom_call, oom_call, 1);

/*
 * By tgid modulo KNOWN: the entries that the two tables above have of these processes, or more, for an LRU drops entries
 * silently. Most exits find 0 here and look no further, which saves three lookups in hashes.
 */
#define KNOWN 4096
BPF_TABLE("array", u32, u32, known, KNOWN);

/* Processes whose death has been counted. Two threads that exit at once may both see themselves as the last one. */
struct process {
	u64 start_ns, tgid;
};
BPF_TABLE("lru_hash", struct process, u32, dead, 1024);

/*
 * The entry programs (at the end of killsnoop.bpf.c) stay attached and tail-call the programs that do the work, each
 * through a program array of one. A new version replaces the array's element: each signal is handled by exactly one
 * version.
 */
BPF_PROG_ARRAY(to_sys_exit, 1);
BPF_PROG_ARRAY(to_signal_generate, 1);
BPF_PROG_ARRAY(to_mark_victim, 1);
BPF_PROG_ARRAY(to_out_of_memory, 1);
BPF_PROG_ARRAY(to_sched_process_exit, 1);
