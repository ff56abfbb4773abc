"""Fine-tuning on TRL and PEFT: `train sft` for either side of a conversation, `train dpo` for a tutor.

The trainers are TRL's. Added here: ids and labels from `render`, END, rows packed without padding, run folders that
survive a kill, several processes with the numbers of one, and a checkpoint that any server can load. Imports go from
left to right:

    config → rows → base, attention → packing → distributed → checkpoint → loop → validation → sft, dpo → launch → steps
"""
