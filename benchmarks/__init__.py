"""What the service costs beside what it wraps: everything is measured side by side in one run, and given as ratios."""
