"""Serve a checkpoint, or export it for other servers."""
