"""Small tokenizers for model dirs of the tests."""


def letter_tokenizer() -> dict:
    """A byte-level tokenizer with a token for each printable ASCII character, and no merges."""
    vocabulary = {chr(33 + i): i for i in range(94)} | {"Ċ": 94, "Ġ": 95}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                  "merges": []},
    }  # fmt: skip
