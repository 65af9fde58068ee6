"""The event path: from records in the ring buffer to the journal or to JSON lines."""
