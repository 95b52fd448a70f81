"""The async core: the only rooms that touch the network and the disk for a call."""
