"""Fine-tuning on TRL and PEFT: `sft` for either side of a conversation, `dpo` for a tutor.

The trainers are TRL's; ours are the columns they eat (ids and labels from `render`), the endings, the run folder
that a killed process goes on with, and the checkpoint that any server can load. In the order of a run:

    config → data, condition → prepare → attention, packing, logps → sft_trainer, dpo_trainer → loop → checkpoint
    heldout, best, curve: what held-out people say of each epoch        launch, worker, ranks: several processes
"""
