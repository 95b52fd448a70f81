"""Images into files or memory, with their bytes on disk before their names."""
