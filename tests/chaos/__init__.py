"""Chaos: the service is killed, cancelled, raced and starved, round after round, and every promise is looked at again.

    python -m tests.chaos [crash|cancel|race|watchers] [--rounds N] [--seed N]

The test suite runs a few rounds of each (tests/process/); this gives the figures.
"""
