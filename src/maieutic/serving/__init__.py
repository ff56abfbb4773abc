"""Give a trained model to others: export (merged, GGUF, Ollama), and a server started and watched."""
