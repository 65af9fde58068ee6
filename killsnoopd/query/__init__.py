"""The command `killsnoop`, which reads the events that the daemon logged."""
