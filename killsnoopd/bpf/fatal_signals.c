/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The signals that a process may die of, kept until it does. */

/*
 * The process may well die of this signal: remember who sent it. A handler that has tidied up often sends the signal to its
 * own process once more, to die of it: then whoever sent the first one is the killer.
 */
static __always_inline void remember(struct event *event)
{
	struct fatal_key key = { event->tpid, event->sig };

	if (event->pid == event->tpid) {
		struct event *first = fatal_signals.lookup(&key);

		if (first && first->tstart_ns == event->tstart_ns && first->pid != first->tpid &&
		    event->time_ns - first->time_ns <= GRACE_NS)
			return;
	}
	fatal_signals.update(&key, event);
}

/* A signal that nobody sent: if the process dies of this number now, it was not he who sent it one before. */
static __always_inline void forget(u32 sig, struct task_struct *target)
{
	struct fatal_key key = { target->tgid, sig };

	if (fatal(sig))
		fatal_signals.delete(&key);
}

/* A SIGKILL to a process that was sent SIGTERM not long ago: whoever sent that ran out of patience. */
static __always_inline void mark_escalation(u32 cpu, struct event *event)
{
	struct fatal_key key = { event->tpid, SIGTERM };
	struct event *term = fatal_signals.lookup(&key);

	if (!term || term->tstart_ns != event->tstart_ns || event->time_ns - term->time_ns > GRACE_NS)
		return;
	event->flags |= ESCALATION;
	event->lapse_ns = event->time_ns - term->time_ns;
	add_one(cpu, ESCALATIONS);
}
