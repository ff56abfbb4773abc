"""The demo: the whole pipeline offline, with tiny models on generated conversations."""
