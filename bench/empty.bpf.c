/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The least that a probe can do: what is left is the price of the hook itself. */
#define BPF_LICENSE Dual MIT/GPL

int empty(void *ctx)
{
	return 0; /* no perf sample */
}
