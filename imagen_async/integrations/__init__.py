"""What other programs are given: engines and formats."""
