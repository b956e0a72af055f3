"""Processes that answer: agents, warm and cold, and where they run."""
