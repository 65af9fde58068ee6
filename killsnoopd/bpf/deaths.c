/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Deaths by sender, victim and the victim's unit. */

#define WORD(a, b, c, d, e, f, g, h)                                                                                 \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 | (u64)(g) << 48 | \
	 (u64)(h) << 56)

enum unit_type { NO_UNIT, SLICE, SCOPE, OTHER_UNIT };

/* What the last eight bytes of a cgroup's name say; NULs stand before a shorter name. Both architectures are little-endian. */
static __always_inline enum unit_type type_of(u64 end)
{
	if (end >> 16 == WORD('.', 's', 'l', 'i', 'c', 'e', 0, 0))
		return SLICE;
	if (end >> 16 == WORD('.', 's', 'c', 'o', 'p', 'e', 0, 0))
		return SCOPE;
	if (end == WORD('.', 's', 'e', 'r', 'v', 'i', 'c', 'e') || end >> 8 == WORD('.', 's', 'o', 'c', 'k', 'e', 't', 0) ||
	    end >> 16 == WORD('.', 'm', 'o', 'u', 'n', 't', 0, 0) || end >> 24 == WORD('.', 's', 'w', 'a', 'p', 0, 0, 0))
		return OTHER_UNIT;
	return NO_UNIT;
}

/*
 * The name of a scope ends at its first hyphen: what follows is the number of a session or the id of a container. Sessions
 * and containers come and go, and each name would take a counter.
 */
static __always_inline void shorten_scope(char *unit)
{
	char keep = -1;

	NO_UNROLL for (u32 i = 0; i < UNIT_LEN; i++) {
		char c = unit[i] & keep;

		unit[i] = c;
		if (c == '-')
			keep = 0;
	}
}

/*
 * The systemd unit of a task, by the rule of sd_pid_get_unit(3): the first cgroup below the root that is not a slice.
 * Empty if that is not a unit, if root did not choose its name, or if names are not readable. The text of the scratch
 * buffer is overwritten.
 */
static __always_inline void read_unit(struct scratch *scratch, struct task_struct *task)
{
	char *unit = scratch->victim.unit;

	__builtin_memset(unit, 0, UNIT_LEN);
#if PROBE_READ
	struct css_set *css_set = cgroups_of(task);
	struct cgroup *cgroup = css_set ? css_set->dfl_cgrp : NULL;

	if (!cgroup)
		return;
	u32 level = cgroup->level;

	NO_UNROLL for (u32 depth = 1; depth < CGROUP_DEPTH_MAX; depth++) {
		BARRIER; /* Linux 6.1 refuses a loop that is entered in its middle (check_cfg, kernel/bpf/verifier.c) */
		char *node = node_at(cgroup, level, depth);
		void *name = NULL, *attributes = NULL;
		u32 owner = 0;

		if (depth > level || !node || read_kernel(&name, sizeof(name), node + KERNFS_NAME))
			break;
		/* NULs before the name stand for the start of a short one, NULs behind it end the unit's. */
		__builtin_memset(scratch->text, 0, sizeof(u64) + UNIT_LEN);
		int size = read_kernel_str(scratch->text + sizeof(u64), NAME_MAX, name);

		if (size <= 1)
			break;
		enum unit_type type = type_of(*(u64 *)&scratch->text[within_text(size - 1)]);

		if (type == SCOPE || type == OTHER_UNIT) {
			__builtin_memcpy(unit, scratch->text + sizeof(u64), UNIT_LEN - 1);
			if (type == SCOPE)
				shorten_scope(unit);
		}
		if (type != SLICE)
			break;
		if (!read_kernel(&attributes, sizeof(attributes), node + KERNFS_IATTR) && attributes &&
		    !read_kernel(&owner, sizeof(owner), attributes + IATTR_UID) && owner)
			break;
	}
#endif
}

/* Count a death. `scratch` has its event, without the text. */
static __always_inline void count_death(u32 cpu, struct scratch *scratch, struct task_struct *task)
{
	struct event *event = &scratch->event;
	struct victim *key = &scratch->victim;
	u32 sig = event->cause.sig, origin = event->cause.origin;

	key->sig = sig;
	key->origin = origin;
	__builtin_memcpy(key->tcomm, event->tcomm, COMM_LEN);
	if (origin == SELF)
		__builtin_memset(key->comm, 0, COMM_LEN);
	else
		__builtin_memcpy(key->comm, event->cause.sender.comm, COMM_LEN);
	BARRIER;
	read_unit(scratch, task);
	BARRIER;
	u32 *found = find_slot(VICTIMS, key);

	if (!found)
		found = take_slot(cpu, VICTIMS, key);
	if (found) {
		use(*found, event->time_ns);
		add_one(cpu, SERIES + *found);
	} else {
		u32 cell = overflow_cell(VICTIMS, key);

		use(OVERFLOW + cell, event->time_ns);
		add_one(cpu, OVERFLOW + cell);
	}
}
