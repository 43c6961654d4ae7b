#!/usr/bin/env python3
"""The peer of microbench/tokenizer_microbench: encode_batch of the PyPI package `tokenizers`, in MB/s.

    RAYON_NUM_THREADS=2 bench/peers/tokenizers_encode.py TOKENIZER TEXTS REPETITIONS

TEXTS has the records that tokenizer_microbench writes: a little-endian u32 length and that many bytes of
UTF-8 each. Prints one JSON object: the median of the repetitions, and the number and hash of the ids.
"""

import hashlib
import json
import statistics
import struct
import sys
import time
from pathlib import Path

import numpy
import tokenizers


def read_records(path: Path) -> list[str]:
    data, texts, at = path.read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4 : at + 4 + size].decode("utf-8"))
        at += 4 + size
    return texts


def main() -> None:
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    texts = read_records(Path(sys.argv[2]))
    num_bytes = sum(len(t.encode()) for t in texts)
    rates = []
    for _ in range(int(sys.argv[3])):
        start = time.perf_counter()
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        rates.append(num_bytes / (time.perf_counter() - start) / 1e6)
    ids = numpy.concatenate([numpy.array(e.ids, dtype="<i4") for e in encodings])
    result = {
        "version": tokenizers.__version__,
        "mb_per_s": statistics.median(rates),
        "tokens": int(ids.size),
        "sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
