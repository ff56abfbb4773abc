"""Recipes: YAML files that name the steps to run, the runner, and the demo's toy world."""
