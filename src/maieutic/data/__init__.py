"""Corpora: any conversation in (`formats`, `seeds`), kept (`corpus`), cleaned, split, measured and written out."""
