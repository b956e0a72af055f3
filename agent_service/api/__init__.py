"""What callers reach: the RPCs, their validation, and errors as statuses."""
