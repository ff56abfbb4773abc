"""The main job on a small sample of our own, offline, with a tiny model."""
