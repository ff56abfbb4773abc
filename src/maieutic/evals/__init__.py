"""Evaluation: simulators, tutors, whole dialogues, judges, corpora, and the benchmarks MT-Bench and AlpacaEval.

Scoring recorded files needs no model, no torch and no network. `simulator` gathers the metrics of a user simulator;
`tutor`, `paired`, `dialogue`, `judge_agreement`, `mt_bench` and `alpaca_eval` score recorded verdicts; `utility`
compares training corpora.
"""
