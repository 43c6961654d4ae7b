#!/usr/bin/env python3
"""The peer of osp's GPTQ: GPTQModel (PyPI package `gptqmodel`) on a CPU.

    gptqmodel_peer.py quantize MODEL WINDOWS --out FOLDER
    gptqmodel_peer.py evaluate FOLDER --windows WINDOWS --weights-out weights.safetensors

`quantize` runs GPTQ on a Hugging Face folder with one calibration sample per window (peer_windows.py
describes the format): by default 4 bits, symmetric, one scale per row, no reordering, damping 0.01.
`evaluate` loads a GPTQ folder of any origin with GPTQModel's PyTorch kernel; it writes the weight of each
quantized layer, [out, in] in fp32 as `<layer>.weight`, and measures perplexity. Each prints one JSON
object on stdout (`seconds` is quantize() or the measurement alone, without loading and saving);
GPTQModel's log goes to stderr.

Installation in an environment of its own takes 2 minutes (the package has no wheel, but its source is
pure Python; nothing is compiled for a CPU and no setting is needed):

    python3 -m venv peer && peer/bin/pip install gptqmodel==7.7.0 torch==2.15.0 transformers==5.23.0
    peer/bin/python bench/peers/gptqmodel_peer.py quantize …
"""

import argparse
import contextlib
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import peer_windows

DTYPES = ("float32", "bfloat16", "float16")


def prepare_environment() -> None:
    """Settings that GPTQModel and PyTorch read when they are imported."""
    # GPTQModel's pool takes half the machine's cores by default and refuses to start with one worker.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, (os.cpu_count() or 1) // 2)))
    # It would compile the dequantization, which takes longer than unpacking each weight once.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def versions() -> dict[str, str]:
    import gptqmodel
    import torch
    import transformers

    return {
        "gptqmodel": gptqmodel.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def quantize(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from gptqmodel import GPTQModel
    from gptqmodel.quantization import GPTQConfig

    windows = peer_windows.read_windows(options.windows)
    config = GPTQConfig(
        bits=options.bits,
        group_size=options.group_size,
        sym=True,
        desc_act=False,
        act_group_aware=False,  # its default, True, reorders columns and refuses group_size -1
        damp_percent=options.damp,
        offload_to_disk=False,
        device="cpu",
    )
    model = GPTQModel.load(str(options.model.resolve()), config, dtype=getattr(torch, options.dtype))
    samples = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in windows]
    # GPTQModel leaves a folder `logs` in the current directory.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        start = time.perf_counter()
        model.quantize(samples, batch_size=1, calibration_sort=None)
        seconds = time.perf_counter() - start
    peak = peak_memory_bytes()
    if options.out is not None:
        model.save(str(options.out))
    return {
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "windows": len(windows),
        "tokens": sum(map(len, windows)),
        "bits": options.bits,
        "group_size": options.group_size,
        "damp": options.damp,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def load_quantized(folder: Path, dtype: str) -> Any:
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    # The kernel computes scale * (code - zero) in the type of its scales and casts that to the input's.
    # So it works in fp32, but loading checks its list of types, which has only the 16-bit ones.
    TorchLinear.SUPPORTS_DTYPES = [*TorchLinear.SUPPORTS_DTYPES, torch.float32]
    return GPTQModel.load(
        str(folder), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=getattr(torch, dtype)
    ).model.eval()


def dequantize(model: Any) -> dict[str, Any]:
    """Turns each quantized layer into a plain Linear and returns their weights, [out, in] in fp32.

    The layer's own forward is x @ dequantize_weight() + bias and unpacks the weight anew at each call,
    which takes most of its time here; unpacked once, the results are the same.
    """
    import torch
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    weights = {}
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, TorchLinear):
            continue
        weight = layer.dequantize_weight().T.contiguous()  # the kernel has it as [in, out]
        linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            linear.bias = torch.nn.Parameter(layer.bias.to(weight.dtype), requires_grad=False)
        model.set_submodule(name, linear)
        weights[f"{name}.weight"] = weight.float()
    return weights


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    with torch.no_grad():
        model = load_quantized(options.model, options.dtype)
        weights = dequantize(model)
        result = {"dtype": options.dtype, "quantized_layers": len(weights), "versions": versions()}
        if options.weights_out is not None:
            save_file(weights, str(options.weights_out))
        if options.windows is not None:

            def logits_of(window: list[int]):
                return model(torch.tensor([window]), use_cache=False).logits[0].float().numpy()

            start = time.perf_counter()
            result["perplexity"], result["tokens"] = peer_windows.perplexity(
                peer_windows.read_windows(options.windows), logits_of
            )
            result["seconds"] = time.perf_counter() - start
    return result


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("quantize", help="quantize a Hugging Face folder with GPTQ")
    command.set_defaults(run=quantize)
    command.add_argument("model", type=Path)
    command.add_argument("windows", type=Path)
    command.add_argument("--out", type=Path, help="folder to save the quantized model in")
    command.add_argument("--bits", type=int, default=4)
    command.add_argument("--group-size", type=int, default=-1, help="-1: one scale per row")
    command.add_argument("--damp", type=float, default=0.01)
    command.add_argument("--dtype", choices=DTYPES, default="float32")

    command = commands.add_parser("evaluate", help="dequantize and measure a GPTQ folder")
    command.set_defaults(run=evaluate)
    command.add_argument("model", type=Path)
    command.add_argument("--windows", type=Path, help="measure perplexity over these")
    command.add_argument("--weights-out", type=Path, help="safetensors file to write")
    command.add_argument("--dtype", choices=DTYPES, default="float32")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    print_result = peer_windows.claim_stdout()
    prepare_environment()
    if options.threads > 0:
        import torch

        torch.set_num_threads(options.threads)
    print_result(options.run(options))


if __name__ == "__main__":
    main()
