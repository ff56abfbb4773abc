"""A checkpoint served, and written for other servers."""
