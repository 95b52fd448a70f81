"""Durable runs: prompts in, a journal beside the images, reports and a gallery out."""
