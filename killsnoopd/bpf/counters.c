/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counting: into the cell of a CPU that a name, or a signal, an origin and an outcome have. */

static __always_inline void add_one(u32 cpu, u32 cell)
{
	u32 at = cpu * ROW + cell;
	u64 *value = counts.lookup(&at);

	if (value)
		*value += 1;
}

static __always_inline void count_event_outcome(u32 cpu, enum kind kind, enum event_outcome outcome)
{
	add_one(cpu, LEDGER + kind * EVENT_OUTCOMES + outcome);
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

/* Seconds, nearly. They stand still while the machine sleeps, as jiffies do: eras are shorter than QUARANTINE. */
static __always_inline u32 tick(void)
{
	return bpf_ktime_get_ns() >> 30;
}

#define NEVER ((u32)-1)
/*
 * A CPU trusts its cache for one era, 1024 jiffies: 10 s at the most (CONFIG_HZ=100). So nobody counts in a slot any more
 * that has been in the queue for longer than that.
 */
#define ERA(jiffies) ((u32)((jiffies) >> 10))
#define QUARANTINE 16 /* ticks */

static __always_inline u64 *slot_state_entry(u32 which)
{
	return slot_state.lookup(&which);
}

/* Take a slot out of use if it was idle for long. A few at random for each new name: so the table follows the names. */
static __always_inline void retire(u32 slot, u32 now, u64 *tail)
{
	u32 *last = used.lookup(&slot), at = *tail % SERIES_MAX;
	struct series *key = series.lookup(&slot);
	struct retired *entry = retired.lookup(&at);

	if (!last || !key || !entry || *last == NEVER || (s32)(now - *last) < (s32)TTL)
		return;
	u32 *mapped = slots.lookup(key);

	if (mapped && *mapped == slot)
		slots.delete(key);
	*last = NEVER;
	entry->slot = slot;
	entry->since = now;
	*tail += 1;
}

/*
 * The slot that has waited longest, for a new name. Its calls go where its old name is counted now, if that is back, or
 * else to AGED. Returns SERIES_MAX if none is ripe. Preemption is off and the lock is held.
 */
static __always_inline u32 recycle(u32 cpu, u32 now, struct series *key, u64 *head)
{
	u32 at = *head % SERIES_MAX;
	u64 total = 0, *version = slot_state_entry(VERSION);
	struct retired *entry = retired.lookup(&at);

	if (!entry || !version || (s32)(now - entry->since) < QUARANTINE)
		return SERIES_MAX;
	u32 slot = entry->slot, *last = used.lookup(&slot);
	struct series *old = series.lookup(&slot);

	*head += 1;
	/* A CPU that had found the slot just before may have overwritten the mark: then it stays, until it has aged again. */
	if (!old || old->sig >= SIGNALS || !last || *last != NEVER)
		return SERIES_MAX;
	u32 *heir = slots.lookup(old);
	u32 to = cpu * ROW + (heir ? SERIES + *heir : AGED + old->sig * RESULTS + overflow_result(old->res));
	u64 *sum = counts.lookup(&to);

	if (!sum)
		return SERIES_MAX;
	__sync_fetch_and_add(version, 1);
	ROLLED for (u32 row = 0; row < CPUS; row++) {
		u32 from = row * ROW + SERIES + slot;
		u64 *value = counts.lookup(&from);

		if (value) {
			total += *value;
			*value = 0;
		}
	}
	*sum += total;
	*old = *key;
	*last = now;
	__sync_fetch_and_add(version, 1);
	return slot;
}

/* One CPU at a time; who comes meanwhile goes without. */
static __always_inline u32 recycled_slot(u32 cpu, struct series *key)
{
	u64 *taken = slot_state_entry(TAKEN), *head = slot_state_entry(QUEUE_HEAD), *tail = slot_state_entry(QUEUE_TAIL),
	    *lock = slot_state_entry(LOCK);
	u32 now = tick(), slot = SERIES_MAX;

	if (!taken || !head || !tail || !lock || !*taken || __sync_lock_test_and_set(lock, 1))
		return SERIES_MAX;
	u32 in_use = *taken < SERIES_MAX ? *taken : SERIES_MAX;

	retire(bpf_get_prandom_u32() % in_use, now, tail);
	retire(bpf_get_prandom_u32() % in_use, now, tail);
	if (*head != *tail)
		slot = recycle(cpu, now, key, head);
	__sync_lock_test_and_set(lock, 0);
	return slot;
}

#define ATTEMPTS_MAX 64 /* each one that fails is another CPU's that succeeded */

/*
 * Add one to a number and return what it was; SERIES_MAX if other CPUs were always faster. Not __sync_fetch_and_add: LLVM
 * 21 and later, as bcc drives them, compile it only where the result is not used ("Invalid usage of the XADD return value").
 */
static __always_inline u64 fetch_and_increment(u64 *number)
{
	u64 expected = *number;

	ROLLED for (int i = 0; i < ATTEMPTS_MAX; i++) {
		u64 found = __sync_val_compare_and_swap(number, expected, expected + 1);

		if (found == expected)
			return found;
		expected = found;
	}
	return SERIES_MAX;
}

/* A new set of labels: give it a slot. Two CPUs may race for one; the loser's slot stays unused until it has aged. */
static __always_inline u32 *take_slot(u32 cpu, struct series *key)
{
	u32 slot = SERIES_MAX;
	u64 *taken = slot_state_entry(TAKEN);

	if (!taken)
		return NULL;
	if (TTL)
		slot = recycled_slot(cpu, key);
	if (slot >= SERIES_MAX) {
		if (*taken >= SERIES_MAX)
			return NULL;
		u64 next = fetch_and_increment(taken);
		if (next >= SERIES_MAX)
			return NULL;
		slot = next;
		struct series *entry = series.lookup(&slot);
		if (!entry)
			return NULL;
		*entry = *key; /* before the slot can be found, so before anything is counted in it */
		u32 now = tick();

		used.update(&slot, &now);
	}
	slots.insert(key, &slot);
	return slots.lookup(key);
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
	u32 *slot = slots.lookup(key);

	if (!slot)
		slot = take_slot(cpu, key);
	if (slot) {
		u32 now = tick(), *last = used.lookup(slot);

		if (last && *last != now && *last != NEVER)
			*last = now;
		cache->key = *key;
		cache->slot_plus_one = *slot + 1;
		cache->era = era;
		add_one(cpu, SERIES + *slot);
	} else {
		add_one(cpu, OVERFLOW + key->sig * RESULTS + overflow_result(key->res));
	}
}

static __always_inline void count_delivery(u32 cpu, u32 sig, u32 origin, u32 outcome)
{
	add_one(cpu, DELIVERIES + (sig * ORIGINS + origin) * OUTCOMES + outcome);
}

/* The same, where a signal_generate in an interrupt may come in between. */
static __always_inline void count_late_delivery(u32 cpu, u32 sig, u32 origin)
{
	u32 at = cpu * ROW + DELIVERIES + (sig * ORIGINS + origin) * OUTCOMES + DELIVERED;
	u64 *value = counts.lookup(&at);

	if (value)
		__sync_fetch_and_add(value, 1);
}
