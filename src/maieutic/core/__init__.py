"""The base of all packages: messages, rows, errors, steps, run folders, workers, prompts, statistics."""
