"""What code can decide about a turn or a dialogue, without a model; `turns` holds the checks that rubrics name."""
