"""Corpora: import (`formats`), read and write (`corpus`), clean, split, decontaminate, measure and convert them."""
