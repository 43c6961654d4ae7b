#!/usr/bin/env python3
"""The peers of `osp bench run`: llama.cpp, its fork ik_llama.cpp, OpenVINO GenAI and ONNX Runtime GenAI.

    run_peer.py --engine llama_cpp MODEL.gguf --threads 1 --cache f16
    run_peer.py --engine ik_llama_cpp MODEL.gguf
    run_peer.py --engine openvino MODEL.gguf
    run_peer.py --engine onnxruntime FOLDER
    run_peer.py --engine llama_cpp SOURCE.gguf --quantize Q4_0 --out MODEL.gguf

Measures what `osp bench run --json` does: tokens a second of a prompt that is read at once and of decoding
behind so many tokens, as the median of the repetitions; with one thread in CPU time of the process, with more
in time of the clock. Prints one JSON object. Flash attention is on unless --no-flash-attention; llama.cpp
repacks the weights for the CPU by itself, ik_llama.cpp is asked to unless --no-repack.

Environments, each of its own, all from PyPI: `pip install openvino-genai==2026.4.1.0`, and built for this
CPU: `CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36`, and
`bench/peers/build_ik.sh ENVIRONMENT` for ik_llama.cpp, which runs with LD_LIBRARY_PATH set to the folder lib
of its package, where its libraries look for each other.
ONNX Runtime GenAI: `pip install onnxruntime-genai==0.18.0 onnx onnx-ir torch transformers`, and FOLDER is
what `python -m onnxruntime_genai.models.builder -i MODEL_DIR -o FOLDER -p int4 -e cpu -c CACHE
--extra_options int4_accuracy_level=4 int4_block_size=32 prune_lm_head=true` writes: 4-bit weights, 8-bit
activations, logits of the last token alone.
"""

import argparse
import importlib
import importlib.metadata
import itertools
import json
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_S": 14, "IQ4_NL": 25, "BF16": 32}


def whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


class Clock:
    """CPU time of the process with one thread, else that of the wall."""

    def __init__(self, threads: int):
        self.now = time.process_time if threads == 1 else time.perf_counter

    def rate(self, tokens: int, repetitions: int, prepare: Callable, work: Callable) -> float:
        rates = []
        for _ in range(repetitions):
            prepare()
            start = self.now()
            work()
            rates.append(tokens / (self.now() - start))
        return statistics.median(rates)


def tokens_of(count: int, vocabulary: int) -> list[int]:
    state, tokens = 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append((state >> 33) % vocabulary)
    return tokens


def numpy_tokens(count: int):
    import numpy

    return numpy.array(tokens_of(count, 40000), dtype=numpy.int32)


class IkModel:
    """ik_llama.cpp's package with the two calls of llama-cpp-python that are timed."""

    def __init__(self, options: argparse.Namespace, context: int):
        import ik_llama_cpp
        from ik_llama_cpp import _ctypes_api, _internals, llama

        self.internals = _internals
        self.free_batch = _ctypes_api.llama_batch_free
        self.position = 0
        flash = not options.no_flash_attention
        # The package turns flash attention off where it does not see AVX-VNNI, as on every CPU that has VNNI
        # in its AVX-512 form alone; the engine itself runs it there.
        llama._cpu_has_avx_vnni = lambda: flash
        # It has no words for these settings of the engine.
        model_settings = _ctypes_api.llama_model_default_params
        context_settings = _ctypes_api.llama_context_default_params
        cache = {"f16": 1, "q8_0": 8, "q4_0": 2}[options.cache]

        def of_model():
            settings = model_settings()
            settings.repack_tensors = not options.no_repack
            settings.merge_qkv = options.merge_qkv
            return settings

        def of_context():
            settings = context_settings()
            settings.type_k = settings.type_v = cache
            return settings

        _ctypes_api.llama_model_default_params = of_model
        _ctypes_api.llama_context_default_params = of_context
        self.model = ik_llama_cpp.IkLlama(
            options.model, n_ctx=context, n_threads=options.threads, flash_attn=flash, verbose=False
        )

    def n_vocab(self) -> int:
        return 40000

    def reset(self) -> None:
        self.model._context.kv_cache_clear()
        self.position = 0

    def eval(self, tokens: list[int]) -> None:
        for i in range(0, len(tokens), 512):
            part = tokens[i : i + 512]
            batch = self.internals.make_batch_range(part, pos_start=self.position, logits_last=True)
            if self.model._context.decode(batch) != 0:
                raise SystemExit("run_peer: ik_llama.cpp failed")
            self.free_batch(batch)
            self.position += len(part)


def load_llama(options: argparse.Namespace, context: int):
    if options.engine == "ik_llama_cpp":
        return importlib.import_module("ik_llama_cpp").__version__, IkModel(options, context)
    module = importlib.import_module(options.engine)
    types = {"f16": module.GGML_TYPE_F16, "q8_0": module.GGML_TYPE_Q8_0, "q4_0": module.GGML_TYPE_Q4_0}
    return module.__version__, module.Llama(
        options.model,
        n_ctx=context,
        n_batch=512,
        n_ubatch=512,
        n_threads=options.threads,
        n_threads_batch=options.threads,
        flash_attn=not options.no_flash_attention,
        type_k=types[options.cache],
        type_v=types[options.cache],
        verbose=options.verbose,
    )


def measure_llama(options: argparse.Namespace) -> dict:
    longest = max([*options.prefill, *(d + options.decode_tokens for d in options.depths)])
    version, model = load_llama(options, longest + 8)
    tokens = tokens_of(longest + 8, model.n_vocab())
    clock = Clock(options.threads)
    result = {"engine": options.engine, "version": version, "cache": options.cache}
    result["flash_attention"] = not options.no_flash_attention
    if options.engine == "ik_llama_cpp":
        result["repacked"] = not options.no_repack
    result["prefill"], result["decode"] = {}, {}
    for n in options.prefill:
        result["prefill"][n] = clock.rate(
            n, options.repetitions, model.reset, lambda n=n: model.eval(tokens[:n])
        )
    for depth in options.depths:

        def prepare(depth=depth):
            model.reset()
            if depth:
                model.eval(tokens[:depth])

        def work(depth=depth):
            for i in range(options.decode_tokens):
                model.eval(tokens[depth + i : depth + i + 1])

        result["decode"][depth] = clock.rate(options.decode_tokens, options.repetitions, prepare, work)
    return result


def measure_llama_together(options: argparse.Namespace, count: int) -> float:
    """Tokens a second of `count` texts of 128 tokens that llama.cpp decodes in one batch."""
    import llama_cpp

    depth = 128
    types = {
        "f16": llama_cpp.GGML_TYPE_F16,
        "q8_0": llama_cpp.GGML_TYPE_Q8_0,
        "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    }
    model = llama_cpp.llama_model_load_from_file(
        options.model.encode(), llama_cpp.llama_model_default_params()
    )
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = count * -(-(depth + options.decode_tokens) // 256) * 256
    parameters.n_seq_max, parameters.n_batch, parameters.n_ubatch = count, 512, 512
    parameters.n_threads = parameters.n_threads_batch = options.threads
    parameters.flash_attn_type = 0 if options.no_flash_attention else 1
    parameters.type_k = parameters.type_v = types[options.cache]
    context = llama_cpp.llama_init_from_model(model, parameters)
    tokens = tokens_of(count * (depth + options.decode_tokens), 40000)
    batch = llama_cpp.llama_batch_init(512, 0, 1)

    def decode(rows: list) -> None:
        """Rows of (sequence, position, token, whether its logits are wanted)."""
        batch.n_tokens = len(rows)
        for i, (sequence, position, token, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit("run_peer: llama.cpp failed to decode a batch")
        llama_cpp.llama_get_logits(context)

    def prepare() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        for s in range(count):
            text = tokens[s * depth : (s + 1) * depth]
            decode([(s, i, token, i == depth - 1) for i, token in enumerate(text)])

    def work() -> None:
        for i in range(options.decode_tokens):
            decode([(s, depth + i, tokens[i * count + s], True) for s in range(count)])

    clock = Clock(options.threads)
    rate = clock.rate(count * options.decode_tokens, options.repetitions, prepare, work)
    # Two of these at a time would count as peak memory.
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return rate


def measure_openvino(options: argparse.Namespace) -> dict:
    import numpy
    import openvino
    import openvino_genai

    pipe = openvino_genai.LLMPipeline(
        options.model, "CPU", INFERENCE_NUM_THREADS=options.threads, PERFORMANCE_HINT="LATENCY"
    )
    clock = Clock(options.threads)
    tokens = tokens_of(max(options.prefill + options.depths) + 8, 40000)
    result = {"engine": "openvino", "version": openvino_genai.__version__, "prefill": {}, "decode": {}}

    texts = itertools.count()

    def generate(n: int, new: int) -> None:
        # Another first token each time: the pipeline keeps what it has read.
        text = [7 + next(texts), *tokens[1:n]]
        ids = openvino.Tensor(numpy.array([text], dtype=numpy.int64))
        mask = openvino.Tensor(numpy.ones((1, n), dtype=numpy.int64))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        pipe.generate(openvino_genai.TokenizedInputs(ids, mask), config)

    generate(16, 2)
    for n in options.prefill:
        result["prefill"][n] = clock.rate(n, options.repetitions, lambda: None, lambda n=n: generate(n, 1))
    for depth in options.depths:
        n = max(depth, 1)
        seconds = []
        for _ in range(options.repetitions):
            start = clock.now()
            generate(n, 1)
            middle = clock.now()
            generate(n, 1 + options.decode_tokens)
            seconds.append((clock.now() - middle) - (middle - start))
        result["decode"][depth] = options.decode_tokens / statistics.median(seconds)
    return result


def measure_onnxruntime(options: argparse.Namespace) -> dict:
    """FOLDER is what onnxruntime_genai.models.builder wrote; the number of threads stands in its settings."""
    import onnxruntime_genai

    longest = max([*options.prefill, *(d + options.decode_tokens for d in options.depths)]) + 8
    tokens = numpy_tokens(longest)
    clock = Clock(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in Path(options.model).resolve().iterdir():
            if file.name != "genai_config.json":
                (folder / file.name).symlink_to(file)
        settings = json.loads((Path(options.model) / "genai_config.json").read_text())
        session = settings["model"]["decoder"].setdefault("session_options", {})
        session["intra_op_num_threads"] = options.threads
        (folder / "genai_config.json").write_text(json.dumps(settings))
        model = onnxruntime_genai.Model(str(folder))

    def generator():
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=longest, min_length=longest, do_sample=False)
        return onnxruntime_genai.Generator(model, parameters)

    state = {}
    version = importlib.metadata.version("onnxruntime-genai")
    result = {"engine": "onnxruntime", "version": version, "prefill": {}, "decode": {}}

    def prepare(depth: int) -> None:
        state["generator"] = generator()
        if depth:
            state["generator"].append_tokens(tokens[:depth])

    def read(n: int) -> None:
        state["generator"].append_tokens(tokens[:n])
        state["generator"].get_logits()

    def decode() -> None:
        for _ in range(options.decode_tokens):
            state["generator"].generate_next_token()

    prepare(16)
    decode()
    for n in options.prefill:
        result["prefill"][n] = clock.rate(n, options.repetitions, lambda: prepare(0), lambda n=n: read(n))
    for depth in options.depths:

        def behind(depth=depth) -> None:
            # The first token behind a prompt is drawn from logits that are there; the next ones are timed.
            prepare(max(depth, 1))
            state["generator"].generate_next_token()

        result["decode"][depth] = clock.rate(options.decode_tokens, options.repetitions, behind, decode)
    return result


def quantize(options: argparse.Namespace) -> dict:
    module = importlib.import_module(options.engine)
    parameters = module.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[options.quantize]
    parameters.allow_requantize = True
    status = module.llama_model_quantize(options.model.encode(), options.out.encode(), parameters)
    if status != 0:
        raise SystemExit(f"run_peer: {options.model}: could not be quantized to {options.quantize}")
    return {"out": options.out, "format": options.quantize}


OTHER_ENGINES = {
    "ik_llama_cpp": measure_llama,
    "openvino": measure_openvino,
    "onnxruntime": measure_onnxruntime,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--engine", choices=["llama_cpp", *OTHER_ENGINES], default="llama_cpp")
    parser.add_argument("--prefill", type=whole_numbers, default=[128, 512, 2048], metavar="N,...")
    parser.add_argument("--depths", type=whole_numbers, default=[0, 512, 2048], metavar="N,...")
    parser.add_argument(
        "--sequences", type=whole_numbers, default=[], metavar="N,...", help="llama.cpp alone"
    )
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", choices=["f16", "q8_0", "q4_0"], default="f16")
    parser.add_argument("--no-flash-attention", action="store_true")
    parser.add_argument("--no-repack", action="store_true", help="ik_llama.cpp alone")
    parser.add_argument("--merge-qkv", action="store_true", help="ik_llama.cpp alone")
    parser.add_argument("--quantize", choices=list(FILE_TYPES))
    parser.add_argument("--out", help="file to write with --quantize")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if options.quantize:
        result = quantize(options)
    else:
        result = OTHER_ENGINES.get(options.engine, measure_llama)(options)
        for count in options.sequences:
            result.setdefault("batch", {})[count] = measure_llama_together(options, count)
        result["threads"] = options.threads
        result["command"] = shlex.join(["run_peer.py", *sys.argv[1:]])
        result["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
