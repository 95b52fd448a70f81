"""The pictures that the emulator answers with."""
