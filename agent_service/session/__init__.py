"""One session: its turns, one after the other, each with a recorded end."""
