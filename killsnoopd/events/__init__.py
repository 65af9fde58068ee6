"""The event path: from a record in the ring buffer to the journal, or to JSON lines."""
