/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counters: the cells of a CPU, by series of two tables, or by signal, origin and outcome. */

static __always_inline void add_one(u32 cpu, u32 cell)
{
	u32 at = cpu * ROW + cell;
	u64 *value = counts.lookup(&at);

	if (value)
		*value += 1;
}

/* Like add_one, but atomic: for a cell that two programs write, of which one may interrupt or preempt the other. */
static __always_inline void add_one_atomically(u32 cpu, u32 cell)
{
	u32 at = cpu * ROW + cell;
	u64 *value = counts.lookup(&at);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void count_event_status(u32 cpu, enum kind kind, enum event_status status)
{
	u32 cell = LEDGER + kind * EVENT_STATUSES + status;

	if (kind >= DEATH) /* a death may preempt on_mark_victim */
		add_one_atomically(cpu, cell);
	else
		add_one(cpu, cell);
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

/* About a second, 2^30 ns. Like jiffies, this clock stops in suspend; otherwise an era could outlast QUARANTINE. */
static __always_inline u32 tick(void)
{
	return bpf_ktime_get_ns() >> 30;
}

#define QUEUED ((u64)-1)
/*
 * A CPU uses its cached slot for one era, 512 jiffies: at most 5.2 s (CONFIG_HZ=100). So last_used is at most that late,
 * and after QUARANTINE no CPU can still count in a slot that is in the queue.
 */
#define ERA(jiffies) ((u32)((jiffies) >> 9))
#define QUARANTINE 16 /* ticks */

#define NO_SLOT ((u32)-1)

/* Record the last use of a slot or of an overflow cell. */
static __always_inline void use(u32 at, u64 now)
{
	u64 *last = last_used.lookup(&at);

	if (last && *last != QUEUED)
		*last = now;
}

/*
 * The following functions serve both tables: `table` is a constant wherever they are called, and `key` is a struct series
 * or a struct victim.
 */
static __always_inline u32 first_slot(enum table table)
{
	return table == SENDERS ? 0 : SERIES_MAX;
}

static __always_inline u32 slots_max(enum table table)
{
	return table == SENDERS ? SERIES_MAX : DEATHS_MAX;
}

static __always_inline u32 *find_slot(enum table table, void *key)
{
	if (table == SENDERS)
		return slots.lookup((struct series *)key);
	return victim_slots.lookup((struct victim *)key);
}

static __always_inline void delete_slot(enum table table, void *key)
{
	if (table == SENDERS)
		slots.delete((struct series *)key);
	else
		victim_slots.delete((struct victim *)key);
}

static __always_inline void insert_slot(enum table table, void *key, u32 *slot)
{
	if (table == SENDERS)
		slots.insert((struct series *)key, slot);
	else
		victim_slots.insert((struct victim *)key, slot);
}

static __always_inline void *key_of(enum table table, u32 slot)
{
	u32 at = slot - first_slot(table);

	if (table == SENDERS)
		return series.lookup(&at);
	return victims.lookup(&at);
}

static __always_inline void copy_key(enum table table, void *to, void *from)
{
	if (table == SENDERS)
		__builtin_memcpy(to, from, sizeof(struct series));
	else
		__builtin_memcpy(to, from, sizeof(struct victim));
}

/* The place of a series among the cells of OVERFLOW and AGED. */
static __always_inline u32 overflow_cell(enum table table, void *key)
{
	struct series *call = key;
	struct victim *death = key;

	if (table == SENDERS)
		return call->sig * RESULTS + overflow_result(call->res);
	return SIGNALS * RESULTS + death->sig * DEATH_ORIGINS + death->origin;
}

static __always_inline u64 *slot_state_entry(enum table table, enum slot_state which)
{
	u32 at = table * SLOT_STATE + which;

	return slot_state.lookup(&at);
}

/* Queue a slot if its series is idle. Each new series checks two slots at random. */
static __always_inline void retire(enum table table, u32 slot, u64 now, u64 *tail)
{
	u64 *last = last_used.lookup(&slot);
	u32 at = first_slot(table) + *tail % slots_max(table);
	void *key = key_of(table, slot);
	struct retired *entry = retired.lookup(&at);

	if (!last || !key || !entry || *last == QUEUED || (s64)(now - *last) < (s64)TTL_NS)
		return;
	u32 *mapped = find_slot(table, key);

	if (mapped && *mapped == slot)
		delete_slot(table, key);
	*last = QUEUED;
	entry->slot = slot;
	entry->since = tick();
	*tail += 1;
}

/*
 * Give the oldest slot of the queue to a new series. Its calls move to the current slot of its old series if that is
 * back, or else to AGED. Returns NO_SLOT if the slot is still in quarantine. The caller holds the lock, with
 * preemption off.
 */
static __always_inline u32 recycle(u32 cpu, enum table table, u64 now, void *key, u64 *head)
{
	u32 at = first_slot(table) + *head % slots_max(table);
	u64 total = 0, *version = slot_state_entry(table, VERSION);
	struct retired *entry = retired.lookup(&at);

	if (!entry || !version || (s32)(tick() - entry->since) < QUARANTINE)
		return NO_SLOT;
	u32 slot = entry->slot;
	u64 *last = last_used.lookup(&slot);
	void *old = key_of(table, slot);

	*head += 1;
	/* A CPU that looked the slot up just before may have overwritten QUEUED: the slot stays in use until idle again. */
	if (!old || !last || *last != QUEUED)
		return NO_SLOT;
	u32 *current = find_slot(table, old);
	u32 to = cpu * ROW + (current ? SERIES + *current : AGED + overflow_cell(table, old));
	u64 *sum = counts.lookup(&to);

	if (!sum)
		return NO_SLOT;
	__sync_fetch_and_add(version, 1);
	NO_UNROLL for (u32 row = 0; row < CPUS; row++) {
		u32 from = row * ROW + SERIES + slot;
		u64 *value = counts.lookup(&from);

		if (value) {
			total += *value;
			*value = 0;
		}
	}
	*sum += total;
	copy_key(table, old, key);
	*last = now;
	__sync_fetch_and_add(version, 1);
	return slot;
}

/* One CPU at a time: if another one holds the lock, return NO_SLOT. */
static __always_inline u32 recycled_slot(u32 cpu, enum table table, void *key)
{
	u64 *taken = slot_state_entry(table, TAKEN), *head = slot_state_entry(table, QUEUE_HEAD),
	    *tail = slot_state_entry(table, QUEUE_TAIL), *lock = slot_state_entry(table, LOCK), now = bpf_ktime_get_boot_ns();
	u32 first = first_slot(table), slot = NO_SLOT;

	if (!taken || !head || !tail || !lock || !*taken || __sync_lock_test_and_set(lock, 1))
		return NO_SLOT;
	u32 in_use = *taken < slots_max(table) ? *taken : slots_max(table);

	retire(table, first + bpf_get_prandom_u32() % in_use, now, tail);
	retire(table, first + bpf_get_prandom_u32() % in_use, now, tail);
	if (*head != *tail)
		slot = recycle(cpu, table, now, key, head);
	__sync_lock_test_and_set(lock, 0);
	return slot;
}

#define ATTEMPTS_MAX 64 /* each failed attempt is another CPU's success */

/*
 * Increment a number and return its old value; NO_SLOT after ATTEMPTS_MAX lost races. Not __sync_fetch_and_add: from
 * LLVM 21 on, bcc can compile that only if its result is unused ("Invalid usage of the XADD return value").
 */
static __always_inline u64 fetch_and_increment(u64 *number)
{
	u64 expected = *number;

	NO_UNROLL for (int i = 0; i < ATTEMPTS_MAX; i++) {
		u64 found = __sync_val_compare_and_swap(number, expected, expected + 1);

		if (found == expected)
			return found;
		expected = found;
	}
	return NO_SLOT;
}

/* Give a new series a slot. If two CPUs race for one series, the loser's slot stays unused until it is recycled. */
static __always_inline u32 *take_slot(u32 cpu, enum table table, void *key)
{
	u32 slot = NO_SLOT;
	u64 *taken = slot_state_entry(table, TAKEN);

	if (!taken)
		return NULL;
	if (TTL_NS)
		slot = recycled_slot(cpu, table, key);
	if (slot == NO_SLOT) {
		if (*taken >= slots_max(table))
			return NULL;
		u64 next = fetch_and_increment(taken);
		if (next >= slots_max(table))
			return NULL;
		slot = first_slot(table) + next;
		void *entry = key_of(table, slot);
		if (!entry)
			return NULL;
		copy_key(table, entry, key); /* before the slot can be looked up, and so before anything is counted in it */
		use(slot, bpf_ktime_get_boot_ns()); /* likewise: it is not idle */
	}
	insert_slot(table, key, &slot);
	return find_slot(table, key);
}

static __always_inline bool same(struct series *one, struct series *other)
{
	u64 *a = (u64 *)one, *b = (u64 *)other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

static __always_inline void count_call(u32 cpu, struct series *key, struct cpu_cache *cache)
{
	u32 era = ERA(bpf_jiffies64());

	if (cache->slot_plus_one && cache->era == era && same(key, &cache->key)) {
		add_one(cpu, SERIES + cache->slot_plus_one - 1);
		return;
	}
	u32 *slot = find_slot(SENDERS, key);

	if (!slot)
		slot = take_slot(cpu, SENDERS, key);
	if (slot) {
		use(*slot, bpf_ktime_get_boot_ns());
		cache->key = *key;
		cache->slot_plus_one = *slot + 1;
		cache->era = era;
		add_one(cpu, SERIES + *slot);
	} else {
		u32 cell = overflow_cell(SENDERS, key);

		use(OVERFLOW + cell, bpf_ktime_get_boot_ns());
		add_one(cpu, OVERFLOW + cell);
	}
}

static __always_inline void count_delivery(u32 cpu, u32 sig, u32 origin, u32 outcome)
{
	add_one(cpu, DELIVERIES + (sig * ORIGINS + origin) * OUTCOMES + outcome);
}

/* Like count_delivery, but atomic: signal_generate in an interrupt may write the same cell. */
static __always_inline void count_late_delivery(u32 cpu, u32 sig, u32 origin)
{
	add_one_atomically(cpu, DELIVERIES + (sig * ORIGINS + origin) * OUTCOMES + DELIVERED);
}
