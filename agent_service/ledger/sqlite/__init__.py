"""The ledger's store in SQLite: all of its SQL."""
