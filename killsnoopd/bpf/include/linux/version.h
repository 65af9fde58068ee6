/* SPDX-License-Identifier: MIT */
/* bcc's helpers.h compares these. The kernel ignores the version of tracepoint programs. 5.15 is the minimum. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
