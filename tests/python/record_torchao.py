"""Writes tests/python/oracles/torchao-VERSION: a small Llama that torchao quantized and transformers saved, a
kind of weights in each block, and the SHA-256 of the numbers that torchao itself makes of its codes.

    python tests/python/record_torchao.py FOLDER        (with torchao >= 0.15, which the tests do not need)
"""

import hashlib
import json
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from torchao.quantization import (
    Float8WeightOnlyConfig,
    FqnToConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerGroup,
)
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TorchAoConfig

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_hidden_layers=4,
    vocab_size=32,
    max_position_embeddings=32,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
    initializer_range=0.2,
)
KINDS = [
    Int8WeightOnlyConfig(),
    IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=PerGroup(16), mapping_type=MappingType.ASYMMETRIC
    ),
    Float8WeightOnlyConfig(),
    Int8DynamicActivationInt8WeightConfig(),
]


def sha256_of(weight):
    quantized = type(weight.data) is not torch.Tensor
    numbers = weight.data.dequantize() if quantized else weight.data
    return hashlib.sha256(numbers.float().contiguous().numpy().tobytes()).hexdigest()


def main(out):
    torch.manual_seed(9)
    with tempfile.TemporaryDirectory() as plain:
        LlamaForCausalLM(CONFIG).save_pretrained(plain)
        kinds = OrderedDict((rf"re:model\.layers\.{i}\..*_proj", kind) for i, kind in enumerate(KINDS))
        model = AutoModelForCausalLM.from_pretrained(
            plain, dtype=torch.float32, quantization_config=TorchAoConfig(FqnToConfig(kinds))
        )
    model.save_pretrained(out)
    numbers = {name: sha256_of(weight) for name, weight in model.named_parameters()}
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
