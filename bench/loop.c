/*
 * The load: a tight loop of one system call, and what a call cost.
 *
 * usage: loop NAME fail|deliver|getppid CALLS PASSES
 * fail: kill() of nobody. deliver: kill(SIGUSR1) to a child that ignores it, so that nothing wakes up.
 * NAME is the process name that observers see. Prints ns per call, a line for each pass of CALLS calls.
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

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	long calls = atol(argv[3]), passes = atol(argv[4]);
	int is_kill = strcmp(argv[2], "getppid"), signal_number = SIGTERM;
	pid_t target = NOBODY;

	if (!strcmp(argv[2], "deliver")) {
		signal_number = SIGUSR1;
		signal(SIGUSR1, SIG_IGN);
		target = fork();
		if (target == 0)
			for (;;)
				pause();
	}
	prctl(PR_SET_NAME, argv[1]);
	for (long pass = 0; pass < passes; pass++) {
		double start = now_ns();

		if (is_kill)
			for (long i = 0; i < calls; i++)
				syscall(SYS_kill, target, signal_number);
		else
			for (long i = 0; i < calls; i++)
				syscall(SYS_getppid);
		printf("%.1f\n", (now_ns() - start) / calls);
	}
	if (target != NOBODY)
		kill(target, SIGKILL);
	return 0;
}
