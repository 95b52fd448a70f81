"""What goes over the wire: bytes and values, no input or output, no clock, no randomness."""
