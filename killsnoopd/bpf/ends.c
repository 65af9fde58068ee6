/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* How processes end: deaths by a signal, exits soon after a signal that was handled, and OOM kills. */

/* The origin of an undecided SIGKILL is now known: count it and emit its event. */
static __always_inline void decide_kill(u32 tid, bool oom)
{
	struct scratch *scratch = undecided_kills.lookup(&tid);
	u32 cpu = bpf_get_smp_processor_id();

	if (!scratch || __sync_lock_test_and_set(&scratch->claimed, 1))
		return;
	struct event *event = &scratch->event;

	if (oom) {
		event->cause.origin = OOM;
		event->cause.flags &= ~INFERRED;
		describe_nobody(&event->cause.sender);
		add_oom_scope(scratch);
		remember(event);
	}
	count_late_delivery(cpu, SIGKILL, event->cause.origin);
	scratch->now = event->time_ns;
	/* Counted as kind DEATH: signal_generate may interrupt this program, and writes the cells of kind DELIVERY. */
	if (admit(cpu, DEATH, event, SIGKILL, event->cause.bucket_id, true, NULL, &scratch->now))
		output_scratch(cpu, DEATH, true, scratch);
	u32 tgid = event->tpid;

	if (undecided_kills.delete(&tid) == 0)
		change_known(tgid, -1);
}

/* The event of a process's end, from the signal that ended it. */
static __always_inline void from_sent(struct event *event, struct sent *sent)
{
	event->elapsed_ns = event->time_ns - sent->time_ns;
	event->cause = sent->cause;
	event->cause.flags &= ~HANDLED;
	if (event->cause.origin == SYSCALL && !(event->cause.flags & INFERRED))
		event->cause.trigger_pid = 0; /* the sender's tracer: a death has the target's */
}

/*
 * The tracer of a process, if it chose to be that. PTRACE_TRACEME makes a tracer of the parent, whoever that is; the
 * tracee's own credentials are then those of the attachment (ptracer_cred).
 */
static __always_inline struct task_struct *tracer_of(struct task_struct *task)
{
	struct task_struct *tracer = task->ptrace ? task->parent : NULL;
	struct cred *cred = task->ptracer_cred;

	return tracer && cred && cred->uid == uid_of(tracer) ? tracer : NULL;
}

/* No signal was seen: a tracer may have injected it (PTRACE_CONT), which generates none. */
static __always_inline void from_tracer(struct event *event, struct task_struct *task)
{
	struct cause *cause = &event->cause;
	struct task_struct *tracer = tracer_of(task);

	event->elapsed_ns = 0;
	cause->trigger_pid = 0;
	cause->code = cause->target_arg = 0;
	cause->call = 0;
	cause->oom_scope = NOT_KNOWN;
	cause->flags = tracer ? INFERRED : 0;
	cause->origin = tracer ? PTRACE : UNKNOWN;
	cause->bucket_id = tracer ? bucket_of(tracer) : bucket_of(task) | BY_KERNEL;
	__builtin_memset(cause->trigger_comm, 0, COMM_LEN);
	__builtin_memset(cause->tty, 0, COMM_LEN);
	if (tracer)
		describe_sender(&cause->sender, tracer);
	else
		describe_nobody(&cause->sender);
}

/* The signal in the wait status of a process whose threads have ended (wait_task_zombie, kernel/exit.c), and its exit status. */
static __always_inline u32 wait_status(struct task_struct *task, struct signal_struct *signal)
{
	struct task_struct *leader = task->group_leader;

	if (signal->flags & SIGNAL_GROUP_EXIT)
		return signal->group_exit_code;
	return leader ? leader->exit_code : 0;
}

/*
 * A traced thread ends with its process, and others still run. Remember the tracer, for the last thread may not be
 * traced: as the sender if no signal was seen, else as the one that may have injected another signal of this number.
 */
static __always_inline void remember_tracer(struct task_struct *task, struct signal_struct *signal)
{
	u32 sig = signal->group_exit_code & 0x7f, at = EXIT * bpf_get_smp_processor_id() + DEATH;
	struct scratch *scratch = scratch_buffers.lookup(&at);

	if (!scratch || !sig || !(signal->flags & SIGNAL_GROUP_EXIT))
		return;
	struct event *event = &scratch->event;

	describe_target(event, task);
	struct history *history = history_of(event->tpid, event->tstart_ns);

	if (history && history->sent[slot_of(sig)].cause.sig == sig) {
		struct cause *cause = &history->sent[slot_of(sig)].cause;
		struct task_struct *tracer = task->parent;

		if (sig == SIGKILL || !tracer || cause->sender.pid == event->tpid)
			return;
		cause->flags |= INFERRED;
		cause->trigger_pid = tracer->tgid;
		read_comm(cause->trigger_comm, tracer->group_leader);
		return;
	}
	event->time_ns = bpf_ktime_get_boot_ns();
	event->cause.sig = sig;
	from_tracer(event, task);
	remember(event);
}

/* The signal after which a process exited by itself, if it was recent; NULL if there was none. */
static __always_inline struct sent *ended_by(struct history *history, u32 tgid, u64 now)
{
	struct sent *term = &history->sent[TERM_SLOT], *other = &history->sent[OTHER_SLOT];
	bool by_other = is_terminating(other->cause.sig) && other->time_ns > term->time_ns;
	struct sent *last = by_other ? other : term;

	return last->cause.sig && now - last->time_ns <= GRACE_NS && last->cause.sender.pid != tgid ? last : NULL;
}

/* Tracepoint sched:sched_process_exit, or a function that do_exit() calls soon after it: the current thread ends. */
int on_sched_process_exit(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct signal_struct *signal = task ? task->signal : NULL;

	if (!signal || !(task->flags & PF_EXITING)) /* kernel threads, and a clone(2) that fails, call these functions, too */
		return 0;
	bool last = signal->live <= 0;

	if (!last && task->ptrace)
		remember_tracer(task, signal);
	if (!last && !(signal->flags & SIGNAL_GROUP_EXIT))
		return 0;
	u32 status = wait_status(task, signal), sig = status & 0x7f, tgid = task->tgid;

	if (!(last && sig) && !is_known(tgid)) /* nearly every exit */
		return 0;
	u32 zero = 0, tid = task->pid, cpu = bpf_get_smp_processor_id(), at = EXIT * cpu + DEATH;
	struct process process = { start_of(task->group_leader), tgid };
	struct history *history = history_of(tgid, process.start_ns);

	/*
	 * A thread that ends settles the SIGKILL that it was sent. The last one also settles that of a thread that had ended
	 * before, or that has changed its id since (execve).
	 */
	if (last && !undecided_kills.lookup(&tid))
		tid = history && history->sent[KILL_SLOT].cause.sig ? history->sent[KILL_SLOT].ttid : tgid;
	decide_kill(tid, false);
	if (!last || !history && !sig)
		return 0;
	struct scratch *scratch = scratch_buffers.lookup(&at);

	if (!scratch || dead.insert(&process, &zero))
		return 0;
	struct event *event = &scratch->event;
	struct sent *sent = NULL;
	enum kind kind = sig ? DEATH : EXIT;

	event->time_ns = bpf_ktime_get_boot_ns();
	if (history)
		sent = sig ? &history->sent[slot_of(sig)] : ended_by(history, tgid, event->time_ns);
	if (sig && sent && sent->cause.sig != sig)
		sent = NULL;
	if (sig && sig < INVALID || sent) {
		if (sent)
			from_sent(event, sent);
		else
			from_tracer(event, task);
		BARRIER;
		event->kind = kind;
		event->cause.sig = sig ? sig : event->cause.sig;
		event->res = 0;
		event->status = status >> 8 & 0xff;
		event->outcome = 0;
		no_text(scratch);
		describe_target(event, task);
		scratch->now = event->time_ns;
		if (event->cause.sender.pid == tgid) /* it sent itself the signal */
			event->cause.origin = SELF;
		else if (sent && sig && sig != SIGKILL && task->ptrace) { /* or its tracer injected another one */
			event->cause.flags |= INFERRED;
			add_trigger(event, task->parent);
		} else if (sent && sig && sig != SIGKILL && event->elapsed_ns > GRACE_NS)
			event->cause.flags |= INFERRED; /* it was pending for long, or a tracer has injected another one and detached */
		BARRIER;
		if (kind == DEATH)
			count_death(cpu, scratch, task);
		else
			add_one(cpu, EXITS + event->cause.sig);
		BARRIER;
		if (admit(cpu, kind, event, event->cause.sig, event->cause.bucket_id, true, NULL, &scratch->now)) {
			add_cgroup(scratch, task, &event->tcgroup_len);
			output_scratch(cpu, kind, true, scratch);
		}
	}
	if (history)
		delete_history(tgid, history);
	return 0;
}
