"""Every step in which models generate conversations: simulation, candidate replies, continuations, tests, intents."""
