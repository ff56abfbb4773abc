"""Fine-tuning on TRL and PEFT: `sft` for either side of a conversation, `dpo` for a tutor.

The trainers are TRL's; ours are the columns they eat (ids and labels from `render`), the endings, the run folder
that a killed process goes on with, and the checkpoint that any server can load.
"""
