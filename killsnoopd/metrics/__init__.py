"""The metrics page: from counters to text."""
