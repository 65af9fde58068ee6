/*
 * Victims and senders with names of their own: a process that calls itself vN waits, one that calls itself sN kills it.
 *
 * usage: names FIRST COUNT SIGNAL
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	long first = atol(argv[1]), count = atol(argv[2]);
	int number = atoi(argv[3]), ends[2];
	char name[16], byte = 0;

	if (pipe(ends))
		return 1;
	for (long i = first; i < first + count; i++) {
		pid_t victim = fork();

		if (victim < 0)
			return 1;
		if (victim == 0) {
			snprintf(name, sizeof(name), "v%ld", i);
			prctl(PR_SET_NAME, name);
			if (write(ends[1], &byte, 1) != 1)
				return 1;
			for (;;)
				pause();
		}
		int status;

		snprintf(name, sizeof(name), "s%ld", i);
		prctl(PR_SET_NAME, name);
		if (read(ends[0], &byte, 1) != 1 || kill(victim, number) || waitpid(victim, &status, 0) != victim)
			return 1;
		if (!WIFSIGNALED(status) || WTERMSIG(status) != number)
			return 1;
	}
	return 0;
}
