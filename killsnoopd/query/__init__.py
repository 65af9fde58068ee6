"""The `killsnoop` command, which reads logged events."""
