"""The metrics page: counters as text."""
