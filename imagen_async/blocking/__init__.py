"""How blocking code drives the async core: a thread with a loop, and streams across it."""
