"""maieutic: train either side of a conversation."""
