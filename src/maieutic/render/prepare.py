"""A corpus → ids and labels on disk, ready for a trainer: `datasets.load_from_disk(OUT)`.

The folder is a stage's: what decides its content (the corpus', the tokenizer's and the template's hashes among it)
stands in `config.json`, so the same call again does nothing and another one is refused with what differs. Several
processes share the work chunk by chunk; the rows come out in the corpus' order however many there are. Conversations
that cannot be trained on are left out and named in `rows.jsonl`; a template that cannot be used stops everything.
"""

from __future__ import annotations
