"""Fine-tuning on TRL and PEFT: `train sft` for either side of a conversation, `train dpo` for a tutor.

The trainers are TRL's. This package adds: token ids and labels from `render`, the END token, packed rows without
padding, run folders that survive a kill, training in several processes with the same results as in one, and
checkpoints that any server can load. A module imports only the modules to its left:

    config → rows → base, attention → packing → distributed → checkpoint → loop → validation → sft, dpo → launch → steps
"""
