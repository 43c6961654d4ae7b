"""Prints what ik_llama.cpp computes from a GGUF file, as JSON: for tests, which run it in a process of its
own (the library ends the process where it finds an error).

    llama_cpp_logits.py FILE.gguf '{"tokens": [[…], …]}'     logits of every position of every text
    llama_cpp_logits.py FILE.gguf '{"texts": ["…", …]}'      ids of each text, special tokens recognised
"""

import json
import sys

from ik_llama_cpp import _ctypes_api as api
from ik_llama_cpp._internals import IkModel, make_batch_range


def context_of(model: IkModel, length: int):
    """One thread; keys and values in fp16, the most precise cache that there is without flash attention."""
    settings = api.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(length, 32)
    settings.n_threads = settings.n_threads_batch = 1
    settings.flash_attn = False
    context = api.llama_init_from_model(model.model, settings)
    return context or sys.exit("llama_init_from_model failed")


def logits_of(model: IkModel, tokens: list[int]) -> list[list[float]]:
    context = context_of(model, len(tokens))
    batch = make_batch_range(tokens, pos_start=0, logits_last=False)
    for i in range(len(tokens)):
        batch.logits[i] = 1
    if api.llama_decode(context, batch) != 0:
        sys.exit("llama_decode failed")
    rows = [api.llama_get_logits_ith(context, i)[: model.n_vocab] for i in range(len(tokens))]
    api.llama_batch_free(batch)
    api.llama_free(context)
    return rows


def main() -> None:
    model, request = IkModel(sys.argv[1]), json.loads(sys.argv[2])
    if "texts" in request:
        result = [model.tokenize(text, add_bos=False, special=True) for text in request["texts"]]
    else:
        result = [logits_of(model, tokens) for tokens in request["tokens"]]
    print("\n" + json.dumps(result))


main()
