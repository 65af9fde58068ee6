/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Admission of events: filters, and token buckets per uid. */

#define NO_UID ((u32)-1)
#define USER_NS_DEPTH_MAX 33 /* kernel/user_namespace.c */
#define NEW_IDS_WITH_BURST 4 /* new ids at once that get a whole burst; the ring buffer has room for these */

static __always_inline bool excluded(u32 sig)
{
	return sig < 64 ? (EXCLUDE_LOW >> sig) & 1 : (EXCLUDE_HIGH >> (sig - 64)) & 1;
}

/*
 * Whether a rule of --events.exclude excludes an event of which the sender's pid, name and uid are filled in. The kernel
 * has neither name nor uid; its pid is 0.
 */
static __always_inline bool excluded_by_rule(struct sender *sender, u32 sig)
{
#if RULES
	u64 *comm = (u64 *)sender->comm;

	if (!sender->pid)
		return false;
	NO_UNROLL for (u32 i = 0; i < RULES; i++) {
		u32 at = i;
		struct rule *rule = rules.lookup(&at);

		if (!rule)
			break;
		u64 difference = ((comm[0] & rule->comm_mask[0]) ^ rule->comm[0]) |
				 ((comm[1] & rule->comm_mask[1]) ^ rule->comm[1]) |
				 ((sender->uid & rule->uid_mask) ^ rule->uid);

		if (!difference && (sig < 64 ? rule->signals[0] >> sig : rule->signals[1] >> (sig - 64)) & 1)
			return true;
	}
#endif
	return false;
}

static __always_inline bool is_fatal(u32 sig)
{
	return sig < 64 ? (FATAL_LOW >> sig) & 1 : (FATAL_HIGH >> (sig - 64)) & 1;
}

/*
 * The id of the token bucket that pays for events of this task: its uid. One user may control many uids in a user
 * namespace, so all of them share the bucket of the namespace's owner, or of the namespace itself if root owns it.
 */
static __always_inline u64 bucket_of(struct task_struct *task)
{
	struct cred *cred = task->cred;
	struct user_namespace *user_ns = cred ? cred->user_ns : NULL;

	if (!user_ns)
		return NO_UID;
	if (user_ns->level == 0)
		return cred->uid;
	NO_UNROLL for (int i = 0; i < USER_NS_DEPTH_MAX && user_ns->level > 1; i++) {
		struct user_namespace *parent = user_ns->parent;

		if (!parent)
			break;
		user_ns = parent;
	}
	return user_ns->owner ? user_ns->owner : 1ULL << 32 | user_ns->inum;
}

/*
 * Each sender has separate buckets, so that a flood of one sort cannot hide another: for SIGKILLs, for other signals that
 * kill, for everything else, and again for what the kernel sends on its own account, which the target pays for.
 */
#define BY_KERNEL (1ULL << 40)
#define FATAL_CLASS (1ULL << 41)
#define KILL_CLASS (1ULL << 42)

static __always_inline u64 class_of(u32 sig, bool fatal)
{
	return !fatal ? 0 : sig == SIGKILL ? KILL_CLASS : FATAL_CLASS;
}

#define RING_BYTES (RING_PAGES * PAGE_SIZE)

/* Unread bytes in the ring buffer. bcc has no method for this helper; the loader replaces EVENTS_FD by the map's fd. */
static __always_inline u64 waiting(void)
{
	return bpf_ringbuf_query((void *)bpf_pseudo_fd(1, EVENTS_FD), BPF_RB_AVAIL_DATA);
}

/* How far the ring buffer is filled beyond 3/8, in 64ths. Only fatal signals may use its second half. */
static __always_inline u64 congestion(bool fatal)
{
	u64 taken = waiting() * 64 / (fatal ? RING_BYTES : RING_BYTES / 2);

	return taken > 24 ? taken - 24 : 0;
}

/*
 * Take the tokens for one event; false if the bucket is empty. Each bucket is one number, the time up to which tokens
 * are paid (the generic cell rate algorithm).
 *
 * An event costs one token while the ring buffer has room. While events back up, the daemon or the journal cannot take
 * all that the buckets allow. Then the price rises with the congestion, for heavy senders.
 *
 * A second bucket, `requested_until`, measures how heavy a sender is. It counts every attempt, admitted or not, so a
 * light sender pays one token whatever it sent earlier. It fills up to three times as fast under congestion, since even
 * three uids within their rates may send more than the daemon can take. Heavy senders thus share the capacity that
 * there is, and leave room for the rest. A sender that uses at most a third of its rate never counts as heavy.
 *
 * Two CPUs that race here may admit one event too many. No event is lost uncounted. `storm` is set while
 * `requested_until` is at its maximum.
 */
static __always_inline bool take_tokens(struct bucket *bucket, u64 now, bool fatal, u64 burst, bool *storm)
{
	u64 level = congestion(fatal);
	u64 paid = bucket->paid_until > now ? bucket->paid_until : now;
	u64 requested = bucket->requested_until > now ? bucket->requested_until : now;

	if (requested <= now + burst)
		requested += EVENT_INTERVAL_NS * (8 + (level < 16 ? level : 16)) / 8;
	*storm = requested > now + burst;
	bucket->requested_until = requested;
	if (paid > now + burst)
		return false;
	u64 share = (requested - now) * 64 / (burst + EVENT_INTERVAL_NS);

	bucket->paid_until = paid + EVENT_INTERVAL_NS * (1 + 2 * level * level * share / 64);
	return true;
}

/*
 * One bucket for each bucket_id and class. The table is an LRU. A new id needs a token of a bucket that all new ids
 * share (one for fatal signals, one for the rest). So a user with many uids can neither evict other ids nor get a burst
 * for each uid.
 */
static __always_inline bool over_limit(u64 id, bool fatal, u64 now, bool *storm)
{
#if EVENT_INTERVAL_NS
	struct bucket *bucket = buckets.lookup(&id);

	if (bucket)
		return !take_tokens(bucket, now, fatal, EVENT_BURST_NS, storm);
	u32 which = fatal;
	struct bucket *shared = shared_buckets.lookup(&which);

	if (!shared || !take_tokens(shared, now, fatal, EVENT_BURST_NS, storm))
		return true;
	bool crowd = shared->paid_until > now + NEW_IDS_WITH_BURST * EVENT_INTERVAL_NS;
	u64 next = now + EVENT_INTERVAL_NS;
	struct bucket fresh = { next + (crowd ? EVENT_BURST_NS : 0), next };

	buckets.update(&id, &fresh);
#endif
	return false;
}

/* Whether to make an event, of which the sender is named (name_sender()). If not, count its status. */
static __always_inline bool admit(u32 cpu, enum kind kind, struct event *event, u32 sig, u64 bucket_id, bool fatal,
				  struct cpu_cache *cache, u64 *now)
{
	if (excluded(sig)) {
		count_event_status(cpu, kind, FILTERED);
		return false;
	}
	u64 jiffy = bpf_jiffies64(), id = bucket_id | class_of(sig, fatal);

	/* In a storm, read the clock and the bucket once per jiffy: that costs more than all the rest. */
	if (cache && cache->bucket_id == id && cache->jiffy == jiffy) {
		count_event_status(cpu, kind, RATE_LIMITED);
		return false;
	}
	/* After the above: a storm of others, over their limit, must not pay for the rules. */
	if (excluded_by_rule(&event->cause.sender, sig)) {
		count_event_status(cpu, kind, FILTERED);
		return false;
	}
	bool storm = false;

	if (!*now)
		*now = bpf_ktime_get_boot_ns();
	if (over_limit(id, fatal, *now, &storm)) {
		if (cache && storm) {
			cache->bucket_id = id;
			cache->jiffy = jiffy;
		}
		count_event_status(cpu, kind, RATE_LIMITED);
		return false;
	}
	return true;
}
