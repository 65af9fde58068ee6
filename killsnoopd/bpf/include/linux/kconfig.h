/* SPDX-License-Identifier: MIT */
/* bcc includes this first; its helpers.h requires CONFIG_BPF_SYSCALL. */
#define CONFIG_BPF_SYSCALL 1
