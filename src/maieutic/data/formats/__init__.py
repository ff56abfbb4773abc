"""Formats of conversations. Each format has one function from a JSON value to the conversations in it."""
