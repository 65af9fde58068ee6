/* SPDX-License-Identifier: MIT */
/* bcc includes this before all else; its helpers.h asks for CONFIG_BPF_SYSCALL. */
#define CONFIG_BPF_SYSCALL 1
