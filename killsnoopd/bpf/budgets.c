/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which events are made: not those that nobody wants, nor those beyond what each uid may have. */

#define USER_NS_DEPTH_MAX 33 /* kernel/user_namespace.c */
#define FEW_NEWCOMERS 4      /* at once, that get their whole burst: what the ring buffer can take */

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

#define RING_BYTES (RING_PAGES * PAGE_SIZE)

/*
 * Bytes of the ring buffer that wait to be logged. bcc has no method for this helper: the loader puts the map in the place
 * of that number.
 */
static __always_inline u64 waiting(void)
{
	return bpf_ringbuf_query((void *)bpf_pseudo_fd(1, EVENTS_FD), BPF_RB_AVAIL_DATA);
}

/*
 * How many tokens an event costs: one, as long as events that wait take less than 3/8 of the room for its kind (half of the
 * ring buffer is for what may kill alone). Beyond that the more, the less room is left, and the more of its burst the payer
 * has used. So those who flood share what the daemon and the journal can do, however little that is, and leave room for all
 * others. It is not for the end of a burst alone: a process that runs every now and then has gained some tokens each time,
 * and twenty of them would fill the room with these.
 */
static __always_inline u64 price(bool deadly, u64 used, u64 burst)
{
	u64 taken = waiting() * 64 / (deadly ? RING_BYTES : RING_BYTES / 2), beyond = taken > 24 ? taken - 24 : 0;

	return 1 + 2 * beyond * beyond * ((used + EVENT_INTERVAL_NS) * 64 / (burst + EVENT_INTERVAL_NS)) / 64;
}

/*
 * A token bucket, kept as one number, the time up to which events are spoken for (the generic cell rate algorithm). Two
 * CPUs that write it at once may let one event too many through; none is lost uncounted.
 */
static __always_inline bool spend(u64 *spoken_for, u64 now, bool deadly, u64 burst)
{
	u64 until = *spoken_for;

	if (until < now)
		until = now;
	if (until - now > burst)
		return false;
	*spoken_for = until + EVENT_INTERVAL_NS * price(deadly, until - now, burst);
	return true;
}

/*
 * A bucket per payer. What may kill has a burst more: whoever floods us with failures cannot hide a kill behind them.
 * The table holds those seen last; to get into it takes a token of a bucket that all newcomers share (two: one for what
 * may kill), so that whoever commands many uids can neither push others out of it nor get a burst for each.
 */
static __always_inline bool over_budget(u64 payer, bool deadly, u64 now)
{
#if EVENT_INTERVAL_NS
	u64 *spoken_for = budgets.lookup(&payer);

	if (spoken_for)
		return !spend(spoken_for, now, deadly, deadly ? 2 * EVENT_BURST_NS : EVENT_BURST_NS);
	u32 which = deadly;
	u64 *shared = newcomers.lookup(&which);

	if (!shared || !spend(shared, now, deadly, EVENT_BURST_NS))
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
