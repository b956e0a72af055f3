"""Process trees: how they are started, found and ended."""
