"""The only room that knows redis: connections, scripts and their typed calls."""
