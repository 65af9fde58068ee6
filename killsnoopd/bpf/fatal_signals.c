/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Remembers who sent each process the last signals that may end it, until it ends. */

#define HISTORY_SHARE (HISTORIES_MAX / 8) /* entries of one payer, unless it is root */

/* Whether the signal asks a process to exit, even if the process handles it. */
static __always_inline bool is_terminating(u32 sig)
{
	return sig == SIGTERM || sig == SIGINT || sig == SIGQUIT || sig == SIGHUP;
}

/*
 * Whether the target handles or ignores the signal: it need not die of it. False if the probe may not read that.
 */
static __always_inline bool is_handled(u32 sig, struct task_struct *target)
{
	struct sighand_struct *sighand = target->sighand;

	if (!sighand || sig == 0 || sig > 64 || sig == SIGKILL)
		return false;
#if RDONLY_CAST
	struct k_sigaction *action =
		bpf_rdonly_cast((u64)&sighand->action + (sig - 1) * SIGACTION_SIZE, K_SIGACTION);

	return action->handler != 0;
#elif PROBE_READ
	u64 handler = 0;

	read_kernel(&handler, sizeof(handler), (void *)&sighand->action + (sig - 1) * SIGACTION_SIZE);
	return handler != 0;
#else
	return false;
#endif
}

static __always_inline enum slot slot_of(u32 sig)
{
	return sig == SIGKILL ? KILL_SLOT : sig == SIGTERM ? TERM_SLOT : OTHER_SLOT;
}

/* A process's entry; NULL if there is none, or only that of an earlier process with the same pid. */
static __always_inline struct history *history_of(u32 tgid, u64 start_ns)
{
	struct history *history = histories.lookup(&tgid);

	return history && history->start_ns == start_ns ? history : NULL;
}

/* Note that there is one entry more of a process, or one less. */
static __always_inline void change_known(u32 tgid, s32 change)
{
	u32 at = tgid % KNOWN, *count = known.lookup(&at);

	if (count)
		__sync_fetch_and_add(count, change);
}

/* Whether there may be an entry of a process: a signal that it may have died or exited of. */
static __always_inline bool is_known(u32 tgid)
{
	u32 at = tgid % KNOWN, *count = known.lookup(&at);

	return !count || *count;
}

static __always_inline void take_share(u64 payer, s32 change)
{
	u32 *share = history_shares.lookup(&payer), first = 1;

	if (share)
		__sync_fetch_and_add(share, change);
	else if (change > 0)
		history_shares.update(&payer, &first);
}

static __always_inline void delete_history(u32 tgid, struct history *history)
{
	take_share(history->payer, -1);
	if (histories.delete(&tgid) == 0)
		change_known(tgid, -1);
}

/*
 * Begin an entry. A payer that has its share of entries gets no more: the deaths of its further targets are reported
 * without a sender, as is every death if the table is full.
 */
static __always_inline struct history *new_history(struct event *event)
{
	u32 zero = 0;
	u64 payer = event->cause.bucket_id;
	u32 *share = history_shares.lookup(&payer);
	struct history *history = histories.lookup(&event->tpid), *empty = no_history.lookup(&zero);

	if (!empty)
		return NULL;
	if (history) /* the exit of an earlier process was not seen */
		delete_history(event->tpid, history);
	if (share && *share >= HISTORY_SHARE && (payer & ~BY_KERNEL) != 0)
		return NULL;
	change_known(event->tpid, 1); /* first: no CPU may find 0 beside an entry */
	histories.update(&event->tpid, empty);
	history = histories.lookup(&event->tpid);
	if (!history)
		return NULL;
	history->start_ns = event->tstart_ns;
	history->payer = payer;
	take_share(payer, 1);
	return history;
}

/*
 * Remember a signal that may end its target. The target's siglock is held, so nothing else writes its entry.
 *
 * After cleaning up, a handler often sends the signal to its own process again in order to die of it. Then the sender
 * of the first signal is the killer.
 */
static __always_inline void remember(struct event *event)
{
	struct history *history = history_of(event->tpid, event->tstart_ns);

	if (!history)
		history = new_history(event);
	if (!history)
		return;
	struct sent *sent = &history->sent[slot_of(event->cause.sig)];

	if (event->cause.sender.pid == event->tpid && sent->cause.sig == event->cause.sig &&
	    sent->cause.sender.pid != event->tpid && event->time_ns - sent->time_ns <= GRACE_NS)
		return;
	sent->time_ns = event->time_ns;
	sent->cause = event->cause;
	sent->ttid = event->ttid;
}

/* A SIGKILL within the grace period after a SIGTERM to the same process is an escalation. */
static __always_inline void mark_escalation(u32 cpu, struct event *event)
{
	struct history *history = history_of(event->tpid, event->tstart_ns);
	struct sent *term = history ? &history->sent[TERM_SLOT] : NULL;

	if (!term || !term->cause.sig || event->time_ns - term->time_ns > GRACE_NS)
		return;
	event->cause.flags |= ESCALATION;
	event->elapsed_ns = event->time_ns - term->time_ns;
	add_one(cpu, ESCALATIONS);
}
