"""Render a conversation as token ids and a loss mask for one role. Only this package handles chat templates."""
