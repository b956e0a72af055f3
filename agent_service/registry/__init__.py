"""All sessions: which are in memory, and what callers do with them."""
