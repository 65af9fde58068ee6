/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Fills in the scratch buffer (sender, target, the names on their paths) and copies it to the ring buffer. */

/*
 * How far a path is followed, and how much of the text it may take: a name may begin before the limit of its path. A long
 * path cannot take the room of the parts behind it, and all parts end before TEXT_MAX.
 */
#define EXE_DEPTH_MAX 32
#define EXE_TEXT_MAX 512
#define CGROUP_DEPTH_MAX 12
#define CGROUP_TEXT_MAX 384
#define CMDLINE_SIZE_MAX (1UL << 31) /* bytes; no execve(2) takes as much */

/* Without the asm, clang drops the mask as redundant. The verifier needs it. */
static __always_inline u32 within_text(u32 end)
{
	asm volatile("" : "+r"(end));
	return end & (TEXT_MAX - 1);
}

/*
 * Where the next name goes; NULL if the text has reached `limit`. The length lives in memory, not in a register, where
 * the verifier does not track its value. So it does not check the rest of the program once for each number of names.
 */
static __always_inline char *next_name(struct scratch *scratch, u32 limit)
{
	u32 end = scratch->text_len;

	return end < limit ? &scratch->text[within_text(end)] : NULL;
}

static __always_inline bool add_name(struct scratch *scratch, int size)
{
	if (size <= 0)
		return false;
	scratch->text_len += size;
	return true;
}

/* A slash where a name could be: no name has one. maps.h says what it means. */
static __always_inline void add_mark(struct scratch *scratch, u32 limit)
{
	char *to = next_name(scratch, limit);

	if (!to)
		return;
	to[0] = '/';
	to[1] = 0;
	add_name(scratch, 2);
}

/* Begin a record without text. */
static __always_inline void no_text(struct scratch *scratch)
{
	struct event *event = &scratch->event;

	event->exe_len = event->cgroup_len = event->cmdline_len = event->ancestors_len = 0;
	event->tcgroup_len = event->memory_len = 0;
	event->cmdline = NONE;
	scratch->text_len = 0;
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

	if (scratch->event.cause.flags & SELF_TEST)
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

/* A leader that has ended stays in its last cgroup, wherever its threads have moved: then that of a live thread. */
static __always_inline struct css_set *cgroups_of(struct task_struct *task)
{
	struct signal_struct *signal = task->flags & PF_EXITING ? task->signal : NULL;
	struct task_struct *live = signal ? signal->curr_target : NULL;

	return live ? live->cgroups : task->cgroups;
}

static __always_inline struct kernfs_node *cgroup_node(struct task_struct *task)
{
	struct css_set *css_set = cgroups_of(task);

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
static __always_inline void name_sender(struct sender *sender, struct task_struct *task)
{
#if RULES
	sender->pid = task->tgid;
	sender->uid = uid_of(task);
	read_comm(sender->comm, task->group_leader);
#endif
}

static __always_inline void describe_sender(struct sender *sender, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader, *parent = task->real_parent;
	struct kernfs_node *node = cgroup_node(task);

	sender->pid = task->tgid;
	sender->tid = task->pid;
	sender->uid = uid_of(task);
	sender->ppid = parent ? parent->tgid : 0;
#ifdef TASK_LOGINUID
	sender->loginuid = task->loginuid;
	sender->sessionid = task->sessionid;
#else
	sender->loginuid = sender->sessionid = -1;
#endif
	sender->ns_pid = ns_pid_of(leader);
	sender->start_ns = start_of(leader);
	sender->cgroup = node ? node->id : 0;
	sender->exe_dev = 0;
	read_comm(sender->comm, leader);
	read_comm(sender->thread_comm, task);
	read_comm(sender->parent_comm, parent ? parent->group_leader : NULL);
}

static __always_inline void describe_nobody(struct sender *sender)
{
	__builtin_memset(sender, 0, sizeof(*sender));
	sender->loginuid = sender->sessionid = -1;
}

/*
 * The process in whose context the kernel sent the signal, or the tracer of its sender, or that of its target when it
 * died. It may have caused the signal, by a write to a file or by using up the memory, or may only have been on the CPU.
 */
static __always_inline void add_trigger(struct event *event, struct task_struct *task)
{
	event->cause.trigger_pid = task ? task->tgid : 0;
	read_comm(event->cause.trigger_comm, task ? task->group_leader : NULL);
}

static __always_inline void add_tty(struct event *event, struct task_struct *target)
{
	struct signal_struct *signal = target->signal;
	struct tty_struct *tty = signal ? signal->tty : NULL;

	if (!tty)
		return;
#pragma unroll
	for (int i = 0; i < COMM_LEN; i++)
		event->cause.tty[i] = tty->name[i];
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
 * The names from the sender's executable up to the root of its file system; user space finds the mount by exe_dev. If
 * there are too many, those nearest to the root are missing. Under lockdown=confidentiality only names inside the dentry
 * are readable: a mark stands for a longer one.
 */
static __always_inline void add_exe(struct scratch *scratch, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct file *file = mm ? mm->exe_file : NULL;
	struct dentry *dentry = file ? file->dentry : NULL;
	struct super_block *sb = dentry ? dentry->d_sb : NULL;
	u32 start = scratch->text_len, limit = start + EXE_TEXT_MAX;

	if (!sb)
		return;
	scratch->event.cause.sender.exe_dev = sb->s_dev;
	NO_UNROLL for (int depth = 0; depth < EXE_DEPTH_MAX; depth++) {
		char *to = next_name(scratch, limit);
		struct dentry *parent = dentry->d_parent;

		if (!to || !parent)
			break;
#if PROBE_READ
		if (!add_name(scratch, read_kernel_str(to, NAME_MAX, dentry->name)))
			break;
#else
		u32 len = dentry->name_len;

		if (len < SHORT_NAME_LEN) {
#pragma unroll
			for (int word = 0; word < SHORT_NAME_LEN / 8; word++)
				((u64 *)to)[word] = dentry->short_name[word];
			add_name(scratch, len + 1);
		} else {
			add_mark(scratch, limit);
		}
#endif
		if (parent == dentry)
			break;
		dentry = parent;
	}
	scratch->event.exe_len = scratch->text_len - start;
}

#if PROBE_READ
/* The node of the cgroup's ancestor at a level; level 0 is the root. */
static __always_inline void *node_at(struct cgroup *cgroup, u32 level, u32 depth)
{
#ifdef CGROUP_ANCESTORS
	char *ancestor;
	void *node;

	/*
	 * A read that fails leaves zeros (bpf_probe_read_kernel_common(), kernel/trace/bpf_trace.c), and a read near address 0
	 * fails.
	 */
	read_kernel(&ancestor, sizeof(ancestor), (char *)cgroup + CGROUP_ANCESTORS + depth * sizeof(void *));
	read_kernel(&node, sizeof(node), ancestor + CGROUP_KN);
	return node;
#else /* before Linux 6.1; a cgroup nested deeper than this has no names */
	struct kernfs_node *node = cgroup->kn;

	NO_UNROLL for (int up = 0; up < 64; up++) {
		if (!node || level <= depth)
			return node;
		node = node->parent;
		level--;
	}
	return NULL;
#endif
}
#endif

#if PROBE_READ
/* The uid that owns a cgroup. One without attributes belongs to root. */
static __always_inline u32 owner_of(char *node)
{
	char *attributes;
	u32 owner = 0;

	read_kernel(&attributes, sizeof(attributes), node + KERNFS_IATTR);
	if (attributes)
		read_kernel(&owner, sizeof(owner), attributes + IATTR_UID);
	return owner;
}

/*
 * The names from the root down to a cgroup, or as far as there is room: what names the unit and the container is near the
 * root. A mark follows the first cgroup that does not belong to root, whose owner names those below it.
 */
static __always_inline void add_cgroup_names(struct scratch *scratch, struct cgroup *cgroup, u32 level)
{
	u32 limit = scratch->text_len + CGROUP_TEXT_MAX;
	bool delegated = false;

	NO_UNROLL for (u32 depth = 0; depth < CGROUP_DEPTH_MAX; depth++) {
		BARRIER; /* Linux 6.1 refuses a loop that is entered in its middle (check_cfg, kernel/bpf/verifier.c) */
		char *to = next_name(scratch, limit), *node;
		void *name;

		if (depth > level || !to)
			break;
		node = node_at(cgroup, level, depth);
		read_kernel(&name, sizeof(name), node + KERNFS_NAME);
		if (!add_name(scratch, read_kernel_str(to, NAME_MAX, name)))
			break;
		if (delegated || !owner_of(node))
			continue;
		add_mark(scratch, limit);
		delegated = true;
	}
}
#endif

static __always_inline void add_cgroup(struct scratch *scratch, struct task_struct *task, u16 *len)
{
#if PROBE_READ
	struct css_set *css_set = cgroups_of(task);
	struct cgroup *cgroup = css_set ? css_set->dfl_cgrp : NULL;
	u32 start = scratch->text_len;

	if (!cgroup)
		return;
	add_cgroup_names(scratch, cgroup, cgroup->level);
	*len = scratch->text_len - start;
#endif
}

/*
 * The command line of a sender, from its own memory, which the kernel can read here only if the sender is the current
 * task, and only the pages that are present. (lockdown=confidentiality forbids reading the kernel's memory, not this.)
 *
 * A program that sets its title may overwrite its arguments and what follows them, up to the first NUL; the last byte of
 * the arguments is then not NUL (get_mm_proctitle, fs/proc/base.c).
 */
static __always_inline void add_cmdline(struct scratch *scratch, struct task_struct *task)
{
#if CMDLINE
	struct mm_struct *mm = task->mm;
	struct event *event = &scratch->event;
	char *to = next_name(scratch, TEXT_MAX), last = 0;

	if (!mm || task->flags & PF_KTHREAD || !to)
		return;
	u64 start = mm->arg_start, size = mm->arg_end - start;
	u64 len = size < CMDLINE_MAX ? size : CMDLINE_MAX;

	if (!start || size - 1 >= CMDLINE_SIZE_MAX)
		return;
	event->cmdline = UNREAD;
	if (task->pid != (u32)bpf_get_current_pid_tgid())
		return;
	read_user(&last, 1, (void *)(start + size - 1));
	if (last) {
		s64 title = read_user_str(to, CMDLINE_MAX, (void *)start);

		if (title > 0)
			event->cmdline = title < CMDLINE_MAX ? WHOLE : CUT;
		event->cmdline_len = title;
	} else {
		if (!read_user(to, len, (void *)start))
			event->cmdline = size <= CMDLINE_MAX ? WHOLE : CUT;
		event->cmdline_len = len;
	}
	BARRIER;
	if (event->cmdline == UNREAD)
		event->cmdline_len = 0;
	BARRIER;
	scratch->text_len += event->cmdline_len;
#endif
}

/* The processes from a sender's parent up to init, as far as ANCESTORS_MAX, in whatever pid namespace each is. */
static __always_inline void add_ancestors(struct scratch *scratch, struct task_struct *task)
{
	u32 start = scratch->text_len;

	NO_UNROLL for (u32 depth = 0; depth < ANCESTORS_MAX; depth++) {
		BARRIER;
		struct task_struct *parent = task->real_parent;
		char *to = next_name(scratch, TEXT_MAX);

		if (!parent || !to)
			break;
		struct task_struct *leader = parent->group_leader;

		if (!leader || !leader->tgid)
			break;
		*(u32 *)to = leader->tgid;
		read_comm(to + sizeof(u32), leader);
		scratch->text_len += sizeof(u32) + COMM_LEN;
		task = leader;
	}
	scratch->event.ancestors_len = scratch->text_len - start;
}

/*
 * The victim's memory, while it is still there: each number lacks what single CPUs have not added yet. The verifier of
 * Linux 6.1 allows no direct access to an element of an array of atomic_long_t.
 */
static __always_inline void add_memory(struct scratch *scratch, struct task_struct *victim)
{
#if defined(MM_RSS_STAT) && PROBE_READ
	struct mm_struct *mm = victim->mm;
	struct signal_struct *signal = victim->signal;
	struct memory *memory = (void *)next_name(scratch, TEXT_MAX);

	if (!mm || !signal || !memory)
		return;
	if (read_kernel(&memory->anon, sizeof(u64), &mm->anon_pages) ||
	    read_kernel(&memory->file, sizeof(u64), &mm->file_pages) ||
	    read_kernel(&memory->shmem, sizeof(u64), &mm->shmem_pages) ||
	    read_kernel(&memory->page_tables, sizeof(u64), &mm->pgtables_bytes))
		return;
	memory->anon *= PAGE_SIZE;
	memory->file *= PAGE_SIZE;
	memory->shmem *= PAGE_SIZE;
	memory->oom_score_adj = signal->oom_score_adj;
	memory->padding = 0;
	scratch->text_len += sizeof(*memory);
	scratch->event.memory_len = sizeof(*memory);
#endif
}

/*
 * Whose memory was used up, and the names of the cgroup if it was a cgroup's. mark_victim is within the call of
 * out_of_memory() that the same task has begun, so the kernel's struct oom_control is still on its stack.
 */
static __always_inline void add_oom_scope(struct scratch *scratch)
{
#if defined(OOM_MEMCG) && defined(OOM_ORDER) && defined(OOM_CONSTRAINT) && PROBE_READ
	u32 zero = 0, constraint = 0, level = 0, start = scratch->text_len;
	s32 order = 0;
	void *group = NULL;
	struct oom_call *call = oom_call.lookup(&zero);

	if (!scratch->event.memory_len || !call || call->task != bpf_get_current_pid_tgid())
		return;
	if (read_kernel(&order, sizeof(order), (void *)call->control + OOM_ORDER) ||
	    read_kernel(&constraint, sizeof(constraint), (void *)call->control + OOM_CONSTRAINT) ||
	    read_kernel(&group, sizeof(group), (void *)call->control + OOM_MEMCG))
		return;
	if (order == -1) /* is_sysrq_oom, mm/oom_kill.c */
		scratch->event.cause.oom_scope = SYSRQ;
	else if (group)
		scratch->event.cause.oom_scope = MEMORY_CGROUP;
	else if (constraint < MEMORY_CGROUP - MACHINE)
		scratch->event.cause.oom_scope = MACHINE + constraint;
#if defined(MEM_CGROUP_CSS) && defined(CGROUP_ANCESTORS)
	struct cgroup *cgroup = NULL;

	BARRIER;
	if (group && !read_kernel(&cgroup, sizeof(cgroup), group + MEM_CGROUP_CSS + CSS_CGROUP) && cgroup &&
	    !read_kernel(&level, sizeof(level), (char *)cgroup + CGROUP_LEVEL))
		add_cgroup_names(scratch, cgroup, level);
	scratch->event.memory_len += scratch->text_len - start;
#endif
#endif
}
