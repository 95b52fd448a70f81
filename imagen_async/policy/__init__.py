"""When to act: decisions as values and pure functions; time and randomness are arguments."""
