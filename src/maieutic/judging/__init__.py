"""Verdicts on replies by checks and models, and the preference pairs and rewards made of them.

`steps` declares the steps; the other modules do their work.
"""
