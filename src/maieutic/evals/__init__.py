"""Measuring: pure functions over files and rows; scoring needs no model, no torch and no network.

`stats` says how sure a number is; `tutor`, `agreement`, `mt_bench`, `alpaca_eval` and `paired` score recorded
verdicts; `text` and `realism` measure what a simulator writes beside what people write; `simulator` gathers them.
"""
