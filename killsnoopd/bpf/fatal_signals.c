/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Remembers the senders of fatal signals until their targets die. */

/*
 * Remember the sender of a signal that the target may die of. After cleaning up, a handler often sends the signal to
 * its own process again in order to die of it. Then the sender of the first signal is the killer.
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

/* Nobody sent this signal. If the target dies of it, an earlier sender of that signal must not be blamed. */
static __always_inline void forget(u32 sig, struct task_struct *target)
{
	struct fatal_key key = { target->tgid, sig };

	if (is_fatal(sig))
		fatal_signals.delete(&key);
}

/* A SIGKILL within the grace period after a SIGTERM to the same process is an escalation. */
static __always_inline void mark_escalation(u32 cpu, struct event *event)
{
	struct fatal_key key = { event->tpid, SIGTERM };
	struct event *term = fatal_signals.lookup(&key);

	if (!term || term->tstart_ns != event->tstart_ns || event->time_ns - term->time_ns > GRACE_NS)
		return;
	event->flags |= ESCALATION;
	event->elapsed_ns = event->time_ns - term->time_ns;
	add_one(cpu, ESCALATIONS);
}
