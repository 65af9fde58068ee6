/* SPDX-License-Identifier: MIT */
/* Empty: bcc includes it; the probe uses nothing from it. */
