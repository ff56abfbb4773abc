"""From a conversation and a role to token ids and a loss mask; the only package that knows chat templates."""
