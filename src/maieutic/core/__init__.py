"""What every package stands on: messages, rows, errors, run folders, workers, budget, console, prompts, statistics."""
