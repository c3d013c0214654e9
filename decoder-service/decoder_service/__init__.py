"""The decoder room: a frozen generator turns messages into programs. It never sees a task."""
