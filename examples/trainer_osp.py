"""Outlier-Safe Pre-Training with transformers' Trainer: train, watch, fold into a plain Llama, save.

python examples/trainer_osp.py OUT [STEPS]
"""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import osp

out, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
text = b"the cat sees the dog and the dog sees the cat. " * 200
rows = torch.tensor(list(text)).long().split(64)[:-1]

shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = osp.convert(LlamaForCausalLM(LlamaConfig(vocab_size=256, **shape)))
watch = osp.watch(model, every=5)
trainer = Trainer(
    model=model,
    args=TrainingArguments(output_dir=out, max_steps=steps, use_cpu=True, report_to=[], save_strategy="no"),
    train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    optimizer_cls_and_kwargs=osp.optim.for_trainer(lr=5e-3),
    callbacks=[watch.callback()],
)
trainer.train()
print(f"excess kurtosis at step {watch.latest['step']}: {watch.latest['excess_kurtosis']:.3f}")
osp.fuse(model).save_pretrained(f"{out}/model")
