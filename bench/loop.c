/*
 * The load: a tight loop of one system call, and what a call cost.
 *
 * usage: loop NAME kill|getppid CALLS PASSES
 * NAME is the process name that observers see. Prints a line for each pass of CALLS calls: ns that the yardstick took,
 * then ns per call. The yardstick is a fixed piece of work, timed just before and just after the pass, the slower of
 * the two: a virtual machine runs at half its speed for seconds on end when its neighbours are busy, and this tells.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 0x7fffffff /* above PID_MAX_LIMIT: no process has this id, so every kill() fails with ESRCH */

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static double yardstick_ns(void)
{
	double start = now_ns();
	unsigned long a = 1, b = 2, c = 3, d = 4;

	for (unsigned long i = 0; i < 200000; i++) {
		a = a * 31 + i;
		b = b * 33 ^ i;
		c = c * 37 + i;
		d = d * 41 ^ i;
		__asm__ volatile("" ::"r"(a), "r"(b), "r"(c), "r"(d)); /* or the compiler would leave it all out */
	}
	return now_ns() - start;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	long calls = atol(argv[3]), passes = atol(argv[4]);
	int is_kill = !strcmp(argv[2], "kill");

	prctl(PR_SET_NAME, argv[1]);
	for (long pass = 0; pass < passes; pass++) {
		double before = yardstick_ns(), start = now_ns();

		if (is_kill)
			for (long i = 0; i < calls; i++)
				syscall(SYS_kill, NOBODY, SIGTERM);
		else
			for (long i = 0; i < calls; i++)
				syscall(SYS_getppid);
		double ns = (now_ns() - start) / calls, after = yardstick_ns();

		printf("%.0f %.1f\n", before > after ? before : after, ns);
	}
	return 0;
}
