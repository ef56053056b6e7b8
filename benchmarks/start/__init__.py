"""`capeserve bench start`: time from start to the first answers."""
