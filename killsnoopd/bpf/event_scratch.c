/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* An event in the making: who and whom, the names on the paths to the root, and into the ring buffer. */

#define DEPTH_MAX 12

/* clang would leave out a mask that it knows to be superfluous; the verifier does not know. */
static __always_inline u32 within_text(u32 end)
{
	asm volatile("" : "+r"(end));
	return end & (TEXT_MAX - 1);
}

/*
 * Where the next name goes; NULL if the text is full. The length is kept in memory, not in a register: the verifier
 * forgets what it knows of it there, and need not follow every number of names through the rest of the program.
 */
static __always_inline char *next_name(struct scratch *scratch)
{
	u32 end = scratch->text_len;

	return end < TEXT_MAX - NAME_MAX ? &scratch->text[within_text(end)] : NULL;
}

static __always_inline bool add_name(struct scratch *scratch, int size)
{
	if (size <= 0)
		return false;
	scratch->text_len += size;
	return true;
}

/* Half of the ring buffer is for what may kill alone. */
static __always_inline void output(u32 cpu, enum kind kind, bool deadly, void *record, u32 size)
{
	bool room = deadly || waiting() < RING_BYTES / 2;

	count_event_outcome(cpu, kind, room && !events.ringbuf_output(record, size, 0) ? EMITTED : RING_FULL);
}

static __always_inline void output_scratch(u32 cpu, enum kind kind, bool deadly, struct scratch *scratch)
{
	u32 size = sizeof(scratch->event) + within_text(scratch->text_len);

	if (scratch->event.flags & SELF_TEST)
		events.ringbuf_output(scratch, size, 0); /* for self_test.py; in the ledger it is filtered, for it is not logged */
	else
		output(cpu, kind, deadly, scratch, size);
}

/* A pid as the process itself sees it, in its own pid namespace, up to four levels deep; deeper, -1. */
static __always_inline int own_number(struct task_struct *task)
{
	struct pid *pid = task ? task->thread_pid : NULL;

	if (!pid)
		return -1;
	switch (pid->level) {
	case 0: return pid->numbers[0].nr;
	case 1: return pid->numbers[1].nr;
	case 2: return pid->numbers[2].nr;
	case 3: return pid->numbers[3].nr;
	default: return -1;
	}
}

/*
 * Whether this is one of the two signals by which the daemon tests the probe (self_test.py). They make events whatever the
 * flags leave out, and whoever floods.
 */
static __always_inline bool is_self_test(struct task_struct *sender)
{
	u32 at = SELF_TEST_PID;
	u64 *pid = ledger.lookup(&at);

	return pid && *pid && *pid == own_number(sender->group_leader);
}

static __always_inline int namespace_number(struct task_struct *leader)
{
	struct pid *pid = leader ? leader->thread_pid : NULL;

	return pid && pid->level ? own_number(leader) : 0;
}

static __always_inline struct kernfs_node *cgroup_node(struct task_struct *task)
{
	struct css_set *css_set = task->cgroups;

	if (!css_set)
		return NULL;
	struct cgroup *cgroup = css_set->dfl_cgrp;

	return cgroup ? cgroup->kn : NULL;
}

static __always_inline u32 uid_of(struct task_struct *task)
{
	struct cred *cred = task->cred;

	return cred ? cred->uid : NO_UID;
}

static __always_inline u64 start_of(struct task_struct *leader)
{
	return leader ? leader->start_boottime : 0;
}

static __always_inline void describe_sender(struct event *event, struct task_struct *task)
{
	u64 ids = bpf_get_current_pid_tgid();
	struct task_struct *leader = task->group_leader, *parent = task->real_parent;
	struct kernfs_node *node = cgroup_node(task);

	event->pid = ids >> 32;
	event->tid = ids;
	event->uid = uid_of(task);
	event->ppid = parent ? parent->tgid : 0;
#ifdef TASK_LOGINUID
	event->loginuid = task->loginuid;
	event->sessionid = task->sessionid;
#else
	event->loginuid = event->sessionid = -1;
#endif
	event->ns_pid = namespace_number(leader);
	event->start_ns = start_of(leader);
	event->cgroup = node ? node->id : 0;
	read_comm(event->comm, leader);
	bpf_get_current_comm(event->thread_comm, COMM_LEN);
	read_comm(event->parent_comm, parent ? parent->group_leader : NULL);
}

static __always_inline void describe_kernel(struct event *event)
{
	event->pid = event->tid = event->uid = event->ppid = 0;
	event->loginuid = event->sessionid = -1;
	event->ns_pid = 0;
	event->start_ns = event->cgroup = 0;
	__builtin_memset(event->comm, 0, COMM_LEN);
	__builtin_memset(event->thread_comm, 0, COMM_LEN);
	__builtin_memset(event->parent_comm, 0, COMM_LEN);
}

static __always_inline void describe_target(struct event *event, struct task_struct *target)
{
	struct task_struct *leader = target->group_leader;
	struct kernfs_node *node = cgroup_node(target);

	event->tpid = target->tgid;
	event->ttid = target->pid;
	event->tns_pid = namespace_number(leader);
	event->tuid = uid_of(target);
	event->tstart_ns = start_of(leader);
	event->tcgroup = node ? node->id : 0;
	read_comm(event->tcomm, leader);
}

/*
 * The names from the sender's executable up to the root of its file system. What they are relative to, exe_dev tells
 * user space. Under lockdown only names that the dentry itself holds can be read: with a longer one, no path.
 */
static __always_inline void add_exe(struct scratch *scratch, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct file *file = mm ? mm->exe_file : NULL;
	struct dentry *dentry = file ? file->dentry : NULL;
	struct super_block *sb = dentry ? dentry->d_sb : NULL;
	u32 start = scratch->text_len;

	if (!sb)
		return;
	ROLLED for (int depth = 0; depth < DEPTH_MAX; depth++) {
		char *to = next_name(scratch);
		struct dentry *parent = dentry->d_parent;

		if (!to || !parent)
			break;
#if PROBE_READ
		if (!add_name(scratch, read_kernel_str(to, NAME_MAX, dentry->name)))
			break;
#else
		u32 len = dentry->name_len;

		if (len >= SHORT_NAME_LEN)
			break;
#pragma unroll
		for (int word = 0; word < SHORT_NAME_LEN / 8; word++)
			((u64 *)to)[word] = dentry->short_name[word];
		add_name(scratch, len + 1);
#endif
		if (parent == dentry) {
			scratch->event.exe_dev = sb->s_dev;
			scratch->event.exe_len = scratch->text_len - start;
			return;
		}
		dentry = parent;
	}
	scratch->text_len = start;
}

/* The names from a task's cgroup up to the root. User space can find the path by the id; but not if it is gone. */
static __always_inline void add_cgroup(struct scratch *scratch, struct task_struct *task, u16 *len)
{
#if PROBE_READ
	struct kernfs_node *node = cgroup_node(task);
	u32 start = scratch->text_len;

	ROLLED for (int depth = 0; depth < DEPTH_MAX; depth++) {
		char *to = next_name(scratch);

		if (!to || !node || !add_name(scratch, read_kernel_str(to, NAME_MAX, node->name)))
			break;
		node = node->parent;
		if (!node) {
			*len = scratch->text_len - start;
			return;
		}
	}
	scratch->text_len = start;
#endif
}
