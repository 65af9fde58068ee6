/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Fills in the scratch buffer (sender, target, the names on their paths) and copies it to the ring buffer. */

#define DEPTH_MAX 12

/* Without the asm, clang drops the mask as redundant. The verifier needs it. */
static __always_inline u32 within_text(u32 end)
{
	asm volatile("" : "+r"(end));
	return end & (TEXT_MAX - 1);
}

/*
 * Where the next name goes; NULL if the text is full. The length lives in memory, not in a register, where the verifier
 * does not track its value. So it does not check the rest of the program once for each number of names.
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

/* Only fatal signals may use the second half of the ring buffer. */
static __always_inline void output(u32 cpu, enum kind kind, bool fatal, void *record, u32 size)
{
	bool room = fatal || waiting() < RING_BYTES / 2;

	count_event_status(cpu, kind, room && !events.ringbuf_output(record, size, 0) ? EMITTED : RING_FULL);
}

static __always_inline void output_scratch(u32 cpu, enum kind kind, bool fatal, struct scratch *scratch)
{
	u32 size = sizeof(scratch->event) + within_text(scratch->text_len);

	if (scratch->event.flags & SELF_TEST)
		events.ringbuf_output(scratch, size, 0); /* for self_test.py; never logged, so counted as filtered */
	else
		output(cpu, kind, fatal, scratch, size);
}

/* The pid in the task's own pid namespace; -1 if that is nested more than three levels deep. */
static __always_inline int innermost_pid(struct task_struct *task)
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
 * Whether the sender is a process that tests the probe (self_test.py). Filters and limits do not apply to its test
 * signals.
 */
static __always_inline bool is_self_test(struct task_struct *sender)
{
	u32 at = SELF_TEST_PID;
	u64 *pid = ledger.lookup(&at);

	return pid && *pid && *pid == innermost_pid(sender->group_leader);
}

static __always_inline int ns_pid_of(struct task_struct *leader)
{
	struct pid *pid = leader ? leader->thread_pid : NULL;

	return pid && pid->level ? innermost_pid(leader) : 0;
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

/* The part of describe_sender() that the rules of --events.exclude ask for, before an event is made. */
static __always_inline void name_sender(struct event *event, struct task_struct *task)
{
#if RULES
	event->pid = task->tgid;
	event->uid = uid_of(task);
	read_comm(event->comm, task->group_leader);
#endif
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
	event->ns_pid = ns_pid_of(leader);
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
	event->tns_pid = ns_pid_of(leader);
	event->tuid = uid_of(target);
	event->tstart_ns = start_of(leader);
	event->tcgroup = node ? node->id : 0;
	read_comm(event->tcomm, leader);
}

/*
 * The names from the sender's executable up to the root of its file system; user space finds the mount by exe_dev.
 * Under lockdown=confidentiality only names inside the dentry are readable: a longer name means no path.
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
	NO_UNROLL for (int depth = 0; depth < DEPTH_MAX; depth++) {
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

/* The names from a task's cgroup up to the root. User space can look the path up by id only while the cgroup exists. */
static __always_inline void add_cgroup(struct scratch *scratch, struct task_struct *task, u16 *len)
{
#if PROBE_READ
	struct kernfs_node *node = cgroup_node(task);
	u32 start = scratch->text_len;

	NO_UNROLL for (int depth = 0; depth < DEPTH_MAX; depth++) {
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
