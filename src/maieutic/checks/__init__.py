"""Checks of turns and dialogues by code, without a model; `turns` has the checks that rubrics name."""
