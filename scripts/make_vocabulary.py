#!/usr/bin/env python3
"""Train the byte-level BPE vocabulary that ships with the demo: text in, tokenizer.json out.

    scripts/make_vocabulary.py gcide.dict.dz recipes/gcide-4096/tokenizer.json

The text may be plain or gzip-compressed (dictd's .dz is gzip with an extra header field). Bytes that are
not UTF-8 become U+FFFD, as in `osp tokenize`. The pre-tokenizer is GPT-2's; all 256 bytes are in the
vocabulary, so any text can be encoded and decoded without loss. Token 0 is <|endoftext|>. The
result depends on the text and the size alone: the same input gives the same file, byte for byte.
"""

import argparse
import gzip
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PIECE_CHARACTERS = 1 << 20


def read_text(path: Path) -> str:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="replace")


def pieces(text: str):
    """Cuts after line ends only, so that no word is cut and indentation stays with its line."""
    start = 0
    while start < len(text):
        end = text.find("\n", min(start + PIECE_CHARACTERS, len(text)))
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def train(text: str, vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        # Sorted: the alphabet comes as a set whose order changes from run to run.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces(text), trainer)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens, <|endoftext|> included")
    options = parser.parse_args()

    tokenizer = train(read_text(options.text), options.vocabulary)
    if tokenizer.get_vocab_size() != options.vocabulary:
        raise SystemExit(
            f"{options.text}: too little text, {tokenizer.get_vocab_size()} tokens of {options.vocabulary}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    compact = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
    options.out.write_text(compact + "\n", encoding="utf-8")
    print(f"{options.out}: {options.vocabulary} tokens")


if __name__ == "__main__":
    main()
