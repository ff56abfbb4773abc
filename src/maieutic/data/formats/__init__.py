"""Formats of conversations, one function a format: from one JSON value to the conversations in it."""
