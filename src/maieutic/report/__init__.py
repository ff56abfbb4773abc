"""A report of one or more runs: an HTML page with tables, figures and sample dialogues, and socratic-llm's files.

    collect (read run folders) → extract (plain data) → tables, figures → page

The report is made only from the run folders: it asks no model and reads no clock, so the same run gives the same bytes.
"""
