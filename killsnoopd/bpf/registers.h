/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The current system call and its arguments, from the user registers that the kernel saves at its entry. ptrace(2)
 * makes their layout part of the ABI. 32-bit programs use other registers and other numbers.
 */
#pragma once

#include "task.h"

enum call { KILL, TKILL, TGKILL, RT_SIGQUEUEINFO, RT_TGSIGQUEUEINFO, PIDFD_SEND_SIGNAL, WRITE, PTRACE_CALL, IOCTL_CALL, OTHER_CALL };

#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	u32 orig_ax, orig_ax_high;
};
#define ARG0(saved) ((saved)->di)
#define ARG1(saved) ((saved)->si)
#define ARG2(saved) ((saved)->dx)
#define COMPAT_ARG0(saved) ((saved)->bx)
#define COMPAT_ARG1(saved) ((saved)->cx)
#define COMPAT_ARG2(saved) ((saved)->dx)
#define CALL_NUMBER(saved) ((saved)->orig_ax & ~0x40000000ull) /* x32 sets that bit */
#define IS_COMPAT(task, saved) ((task)->thread_status & 2)        /* TS_COMPAT: int 0x80, or a 32-bit program */

static inline __attribute__((always_inline)) enum call native_call(u64 number)
{
	if (number == 62) /* by far the most frequent of the six */
		return KILL;
	asm volatile("" : "+r"(number)); /* keep clang from making the test a part of the switch */
	switch (number) {
	case 200: return TKILL;
	case 234: return TGKILL;
	case 129: case 524: return RT_SIGQUEUEINFO; /* 5xx: x32 */
	case 297: case 536: return RT_TGSIGQUEUEINFO;
	case 424: return PIDFD_SEND_SIGNAL;
	case 1: return WRITE;
	case 101: case 521: return PTRACE_CALL;
	case 16: case 514: return IOCTL_CALL;
	default: return OTHER_CALL;
	}
}

static inline __attribute__((always_inline)) enum call compat_call(u64 number)
{
	switch (number) {
	case 37: return KILL;
	case 238: return TKILL;
	case 270: return TGKILL;
	case 178: return RT_SIGQUEUEINFO;
	case 335: return RT_TGSIGQUEUEINFO;
	case 424: return PIDFD_SEND_SIGNAL;
	case 4: return WRITE;
	case 26: return PTRACE_CALL;
	case 54: return IOCTL_CALL;
	default: return OTHER_CALL;
	}
}

static inline __attribute__((always_inline)) bool native_call_closes(u64 number)
{
	switch (number) {
	case 3: case 33: case 292: case 436: /* close, dup2, dup3, close_range */
	case 59: case 322: case 520: case 545: return true; /* execve, execveat; 5xx: x32 */
	default: return false;
	}
}

static inline __attribute__((always_inline)) bool compat_call_closes(u64 number)
{
	switch (number) {
	case 6: case 63: case 330: case 436:
	case 11: case 358: return true;
	default: return false;
	}
}

#elif defined(__aarch64__)
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate, orig_x0;
	int syscallno;
};
#define ARG0(saved) ((saved)->orig_x0) /* x0 holds the return value by the time of the exit */
#define ARG1(saved) ((saved)->regs[1])
#define ARG2(saved) ((saved)->regs[2])
#define COMPAT_ARG0 ARG0
#define COMPAT_ARG1 ARG1
#define COMPAT_ARG2 ARG2
#define CALL_NUMBER(saved) ((u64)(u32)(saved)->syscallno)
#define IS_COMPAT(task, saved) ((saved)->pstate & 0x10) /* PSR_MODE32_BIT */

static inline __attribute__((always_inline)) enum call native_call(u64 number)
{
	if (number == 129) /* by far the most frequent of the six */
		return KILL;
	asm volatile("" : "+r"(number)); /* keep clang from making the test a part of the switch */
	switch (number) {
	case 130: return TKILL;
	case 131: return TGKILL;
	case 138: return RT_SIGQUEUEINFO;
	case 240: return RT_TGSIGQUEUEINFO;
	case 424: return PIDFD_SEND_SIGNAL;
	case 64: return WRITE;
	case 117: return PTRACE_CALL;
	case 29: return IOCTL_CALL;
	default: return OTHER_CALL;
	}
}

static inline __attribute__((always_inline)) enum call compat_call(u64 number)
{
	switch (number) {
	case 37: return KILL;
	case 238: return TKILL;
	case 268: return TGKILL;
	case 178: return RT_SIGQUEUEINFO;
	case 363: return RT_TGSIGQUEUEINFO;
	case 424: return PIDFD_SEND_SIGNAL;
	case 4: return WRITE;
	case 26: return PTRACE_CALL;
	case 54: return IOCTL_CALL;
	default: return OTHER_CALL;
	}
}

static inline __attribute__((always_inline)) bool native_call_closes(u64 number)
{
	switch (number) {
	case 57: case 24: case 436: /* close, dup3, close_range */
	case 221: case 281: return true; /* execve, execveat */
	default: return false;
	}
}

static inline __attribute__((always_inline)) bool compat_call_closes(u64 number)
{
	switch (number) {
	case 6: case 63: case 358: case 436:
	case 11: case 387: return true;
	default: return false;
	}
}

#else
#error "killsnoopd knows the system call registers of x86-64 and arm64 only"
#endif

/* bpf_task_pt_regs, which bcc declares from 0.22 on. */
static long (*saved_registers)(struct task_struct *task) = (void *)175;

/* The system call that a task is in, and its arguments if it is one of the six that send signals. */
struct running {
	enum call call;
	bool compat;
	s32 target_arg, sig;
};

/* Whether the call's arguments are process, thread and signal; those of the others are a target and the signal. */
static inline __attribute__((always_inline)) bool names_thread(enum call call)
{
	return call == TGKILL || call == RT_TGSIGQUEUEINFO;
}

static inline __attribute__((always_inline)) void read_running(struct running *running, struct task_struct *task)
{
	struct pt_regs *regs = (void *)saved_registers(task);

	if (task->flags & PF_KTHREAD) { /* has no user registers */
		*running = (struct running){ OTHER_CALL };
	} else if (IS_COMPAT(task, regs)) {
		running->compat = true;
		running->call = compat_call(CALL_NUMBER(regs));
		running->target_arg = COMPAT_ARG0(regs);
		running->sig = names_thread(running->call) ? COMPAT_ARG2(regs) : COMPAT_ARG1(regs);
	} else {
		running->compat = false;
		running->call = native_call(CALL_NUMBER(regs));
		running->target_arg = ARG0(regs);
		running->sig = names_thread(running->call) ? ARG2(regs) : ARG1(regs);
	}
}

/* Whether the task is closing files: in a call that closes descriptors, or because it exits. */
static inline __attribute__((always_inline)) bool closes_files(struct task_struct *task)
{
	struct pt_regs *regs = (void *)saved_registers(task);

	if (task->flags & (PF_EXITING | PF_KTHREAD))
		return task->flags & PF_EXITING;
	return IS_COMPAT(task, regs) ? compat_call_closes(CALL_NUMBER(regs)) : native_call_closes(CALL_NUMBER(regs));
}
