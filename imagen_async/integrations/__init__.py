"""Where a batch meets other programs: what it made, in the formats that training reads."""
