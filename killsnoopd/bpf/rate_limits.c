/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which events are made: not those that nobody wants, nor those beyond what each uid may have. */

#define NO_UID ((u32)-1)
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
 * Whose bucket an event of this task is on: its uid's. In a user namespace many uids may be at one user's command: they are
 * his, or the namespace's if root made it.
 */
static __always_inline u64 bucket_of(struct task_struct *task)
{
	struct cred *cred = task->cred;
	struct user_namespace *user_ns = cred ? cred->user_ns : NULL;

	if (!user_ns)
		return NO_UID;
	if (user_ns->level == 0)
		return cred->uid;
	ROLLED for (int i = 0; i < USER_NS_DEPTH_MAX && user_ns->level > 1; i++) {
		struct user_namespace *parent = user_ns->parent;

		if (!parent)
			break;
		user_ns = parent;
	}
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

/* How full the room for an event of this kind is, in 64ths beyond 3/8: half of the ring buffer is for what may kill alone. */
static __always_inline u64 crowding(bool deadly)
{
	u64 taken = waiting() * 64 / (deadly ? RING_BYTES : RING_BYTES / 2);

	return taken > 24 ? taken - 24 : 0;
}

/*
 * A token bucket, kept as one number, the time up to which events are spoken for (the generic cell rate algorithm). An
 * event costs one token while there is room. When there is less, the daemon or the journal cannot take all that the
 * buckets allow: then the price goes up, the more the less room is left, for those who ask for more than others do.
 *
 * What they ask for is in a second bucket, by every attempt and not by what was let through, so that whoever asks for
 * little pays one token however he began. It fills up to three times as fast the less room is left: three uids that keep
 * within their rates may be too many, too. So those who flood share what there is, however little that is, and leave room
 * for the rest; whoever asks for no more than a third of his rate is not taken for one of them.
 *
 * Two CPUs that write these at once may let one event too many through; none is lost uncounted. `storm`: it was asked for
 * as much as can be noted.
 */
static __always_inline bool spend(struct bucket *bucket, u64 now, bool deadly, u64 burst, bool *storm)
{
	u64 beyond = crowding(deadly);
	u64 until = bucket->paid_until > now ? bucket->paid_until : now;
	u64 asked = bucket->requested_until > now ? bucket->requested_until : now;

	if (asked <= now + burst)
		asked += EVENT_INTERVAL_NS * (8 + (beyond < 16 ? beyond : 16)) / 8;
	*storm = asked > now + burst;
	bucket->requested_until = asked;
	if (until > now + burst)
		return false;
	u64 share = (asked - now) * 64 / (burst + EVENT_INTERVAL_NS);

	bucket->paid_until = until + EVENT_INTERVAL_NS * (1 + 2 * beyond * beyond * share / 64);
	return true;
}

/*
 * A bucket per bucket_id. What may kill has a burst more: whoever floods us with failures cannot hide a kill behind them.
 * The table holds those seen last; to get into it takes a token of a bucket that all newcomers share (two: one for what
 * may kill), so that whoever commands many uids can neither push others out of it nor get a burst for each.
 */
static __always_inline bool over_limit(u64 bucket_id, bool deadly, u64 now, bool *storm)
{
#if EVENT_INTERVAL_NS
	struct bucket *bucket = buckets.lookup(&bucket_id);

	if (bucket)
		return !spend(bucket, now, deadly, deadly ? 2 * EVENT_BURST_NS : EVENT_BURST_NS, storm);
	u32 which = deadly;
	struct bucket *shared = newcomers.lookup(&which);

	if (!shared || !spend(shared, now, deadly, EVENT_BURST_NS, storm))
		return true;
	bool crowd = shared->paid_until > now + FEW_NEWCOMERS * EVENT_INTERVAL_NS;
	u64 next = now + EVENT_INTERVAL_NS;
	struct bucket fresh = { next + (crowd ? EVENT_BURST_NS : 0), next };

	buckets.update(&bucket_id, &fresh);
#endif
	return false;
}

/* Whether an event shall be made; if not, that is counted. */
static __always_inline bool admit(u32 cpu, enum kind kind, u32 sig, u64 bucket_id, bool deadly, struct cpu_cache *cache,
					u64 *now)
{
	if (excluded(sig)) {
		count_event_outcome(cpu, kind, FILTERED);
		return false;
	}
	u64 jiffy = bpf_jiffies64();

	/* Reading the clock and the bucket costs more than all the rest: once a jiffy will do for a bucket_id in a storm. */
	if (cache && cache->bucket_id == bucket_id && cache->jiffy == jiffy && cache->over > deadly) {
		count_event_outcome(cpu, kind, RATE_LIMITED);
		return false;
	}
	bool storm = false;

	if (!*now)
		*now = bpf_ktime_get_boot_ns();
	if (over_limit(bucket_id, deadly, *now, &storm)) {
		if (cache && storm) {
			cache->bucket_id = bucket_id;
			cache->jiffy = jiffy;
			cache->over = deadly + 1;
		}
		count_event_outcome(cpu, kind, RATE_LIMITED);
		return false;
	}
	return true;
}
