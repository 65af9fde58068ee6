/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Deaths by sender, victim, and the victim's unit and pod. */

#define WORD(a, b, c, d, e, f, g, h)                                                                                 \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 | (u64)(g) << 48 | \
	 (u64)(h) << 56)

#define POD_AT_START ((u32)WORD(0, 'p', 'o', 'd', 0, 0, 0, 0))
#define POD_BEHIND_HYPHEN ((u32)WORD('-', 'p', 'o', 'd', 0, 0, 0, 0))

enum unit_type { NO_UNIT, SLICE, SCOPE, OTHER_UNIT };

/* Functions, because a cast in place keeps the alignment that clang knows, 1: it would load and store single bytes. */
static __always_inline u64 load_u64(const void *from)
{
	return *(const u64 *)from;
}

static __always_inline void copy_words(void *to, const void *from, u32 words)
{
#pragma unroll
	for (u32 i = 0; i < words; i++)
		((u64 *)to)[i] = ((const u64 *)from)[i];
}

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

#if PROBE_READ
static __always_inline bool is_pod(u32 before_uid)
{
	return before_uid == POD_AT_START || before_uid == POD_BEHIND_HYPHEN;
}

/* Copy the uid of a pod if the text up to name_end is pod<uid> or ends in -pod<uid>. A static pod's uid has 32 bytes. */
static __always_inline void read_pod_uid(struct scratch *scratch)
{
	u32 end = scratch->name_end, len = 0;

	if (is_pod((u32)load_u64(&scratch->text[within_text(end - 36 - 4)])))
		len = 36;
	else if (is_pod((u32)load_u64(&scratch->text[within_text(end - 32 - 4)])))
		len = 32;
	if (len && end >= len + 4)
		read_kernel(scratch->victim.pod_uid, len, &scratch->text[within_text(end - len)]);
}
#endif

/*
 * The systemd unit of a task, by the rule of sd_pid_get_unit(3): the first cgroup below the root that is not a slice. And
 * the pod: a cgroup below the kubelet's, [PREFIX-]kubepods.slice or, with its cgroupfs driver, kubepods.
 * Empty if there is none, if root did not choose its name, or if names are not readable. The text of the scratch buffer
 * is overwritten.
 */
static __always_inline void read_unit_and_pod(struct scratch *scratch, struct task_struct *task)
{
	char *unit = scratch->victim.unit, *pod_uid = scratch->victim.pod_uid;

	__builtin_memset(unit, 0, UNIT_LEN);
	__builtin_memset(pod_uid, 0, POD_UID_LEN);
#if PROBE_READ
	scratch->in_scope = scratch->not_only_slices = scratch->below_kubepods = false;
	BARRIER;
	struct css_set *css_set = cgroups_of(task);
	struct cgroup *cgroup = css_set ? css_set->dfl_cgrp : NULL;

	if (!cgroup)
		return;
	u32 level = cgroup->level;

	NO_UNROLL for (u32 depth = 1; depth < CGROUP_DEPTH_MAX; depth++) {
		BARRIER; /* Linux 6.1 refuses a loop that is entered in its middle (check_cfg, kernel/bpf/verifier.c) */
		if (depth > level)
			break;
		char *node = node_at(cgroup, level, depth);
		void *name;

		read_kernel(&name, sizeof(name), node + KERNFS_NAME);
		/* NULs before the name stand for the start of a short one, NULs behind it end the unit's. */
		__builtin_memset(scratch->text, 0, sizeof(u64) + UNIT_LEN);
		int size = read_kernel_str(scratch->text + sizeof(u64), NAME_MAX, name);

		if (size <= 1)
			break;
		scratch->name_end = sizeof(u64) + size - 1;
		scratch->type = type_of(load_u64(&scratch->text[within_text(size - 1)]));
		BARRIER;
		if (!scratch->not_only_slices && (scratch->type == SCOPE || scratch->type == OTHER_UNIT)) {
			copy_words(unit, scratch->text + sizeof(u64), UNIT_LEN / sizeof(u64));
			unit[UNIT_LEN - 1] = 0;
			scratch->in_scope = scratch->type == SCOPE;
		}
		BARRIER;
		if (scratch->type == SLICE)
			scratch->name_end -= sizeof(".slice") - 1;
		else
			scratch->not_only_slices = true;
		BARRIER;
		if (load_u64(&scratch->text[within_text(scratch->name_end - sizeof(u64))]) == WORD('k', 'u', 'b', 'e', 'p', 'o', 'd', 's'))
			scratch->below_kubepods = true;
		else if (scratch->below_kubepods && !pod_uid[0])
			read_pod_uid(scratch);
		BARRIER;
		if (scratch->not_only_slices && (!scratch->below_kubepods || pod_uid[0]))
			break;
		if (owner_of(node))
			break;
	}
	BARRIER;
	if (scratch->in_scope)
		shorten_scope(unit);
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
	read_unit_and_pod(scratch, task);
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
