"""Small tokenizers, one for each kind of fault that was found in ours: ids that follow from the file alone,
which the package `tokenizers` gives as well."""

import json

import pytest
from test_tokenizer_random import encode
from tokenizers import Tokenizer

VOCABULARY = ["<unk>", *"abc -+7", "▁", "▁c", "<bos>", "<eos>"]
ID = {token: i for i, token in enumerate(VOCABULARY)}
A, B, C, MINUS, PLUS, SEVEN = (ID[character] for character in "abc-+7")
UNKNOWN, SPACE, BAR, BAR_C, BOS, EOS = (ID[token] for token in ("<unk>", " ", "▁", "▁c", "<bos>", "<eos>"))
FIRST, SECOND = len(ID), len(ID) + 1  # added tokens stand behind the vocabulary


def tokenizer(merges=(), added=(), fuse_unk=False, **parts):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": fuse_unk, "byte_fallback": False,
             "ignore_merges": False, "vocab": ID, "merges": list(merges)}  # fmt: skip
    rest = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{**flags, **token} for token in added], **rest, "model": model}  # fmt: skip


def template(single, pair):
    """A post-processor of parts in order: A and B for the texts, other names for tokens."""

    def parts(order):
        return [
            {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}} for name in order
        ]

    tokens = {name: {"id": name, "ids": [ID[name]], "tokens": [name]} for name in ("<bos>", "<eos>")}
    return {"type": "TemplateProcessing", "single": parts(single), "pair": parts(pair),
            "special_tokens": tokens}  # fmt: skip


LEFT_STRIP = {"type": "Strip", "strip_left": True, "strip_right": False}
FIRST_WORD = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
WORDS = {"type": "Split", "pattern": {"Regex": r"[^\w\s]+|\w+"}, "behavior": "Isolated", "invert": False}
TEMPLATES = [
    template(["<bos>", "A"], ["<bos>", "A", "<bos>", "B"]),
    template(["A", "<eos>"], ["A", "<eos>", "B", "<eos>"]),
]

# The tokenizer, and for each text its ids.
CASES = {
    # The white space that a token takes to its right ends where another added token stands in it.
    "a token of white space behind one that strips": (
        tokenizer(added=[{"id": FIRST, "content": "<end>", "rstrip": True}, {"id": SECOND, "content": "\t"}]),
        {
            "<end>\t": [FIRST, SECOND],
            "b<end>\t\t<end>a": [B, FIRST, SECOND, SECOND, FIRST, A],
            "<end>  \tb": [FIRST, SECOND, B],
            "\t<end>": [SECOND, FIRST],
            "<end>\t<end>\t": [FIRST, SECOND, FIRST, SECOND],
            "<end> \n\t c": [FIRST, SECOND, SPACE, C],
        },
    ),
    # The bar goes in front of what began the text, not of what begins it once it is stripped.
    "the first word of a text that was stripped": (
        tokenizer(["▁ c"], [{"id": FIRST, "content": "<end>"}], normalizer=LEFT_STRIP,
                  pre_tokenizer=FIRST_WORD),
        {
            "c": [BAR_C],
            "  c": [C],
            "b c": [BAR, B, BAR_C],
            "  b c": [B, BAR_C],
            "<end>c": [FIRST, C],
            " <end> c": [FIRST, C],
            "cc<end>bc": [BAR_C, C, FIRST, B, C],
        },
    ),
    # Raised digits and fractions belong to \w, and to [^\w\s] as well: who comes first takes them. Unknown
    # characters are one token in one piece, and one in each of two.
    "a class of word characters in brackets": (
        tokenizer(fuse_unk=True, pre_tokenizer=WORDS),
        {
            "a!³": [A, UNKNOWN],
            "!¼!": [UNKNOWN],
            "7¾!": [SEVEN, UNKNOWN, UNKNOWN],
            "b¹!c": [B, UNKNOWN, UNKNOWN, C],
            "⅓⅓": [UNKNOWN],
            "ö!ö": [UNKNOWN, UNKNOWN, UNKNOWN],
            "-²+": [MINUS, UNKNOWN, PLUS],
        },
    ),
    # The last entry of a token holds.
    "an added token that is listed twice": (
        tokenizer(added=[{"id": FIRST, "content": "<q>", "special": False},
                         {"id": FIRST, "content": "<q>", "lstrip": True, "rstrip": True}]),
        {
            "b <q> c": [B, FIRST, C],
            "  <q>": [FIRST],
            "a<q>a": [A, FIRST, A],
            "<q> <q>": [FIRST, FIRST],
        },
    ),
    # The first template makes two parts, its token and the text, and the second takes them for a pair.
    "two templates in a row": (
        tokenizer(added=[{"id": BOS, "content": "<bos>"}, {"id": EOS, "content": "<eos>"}],
                  post_processor={"type": "Sequence", "processors": TEMPLATES}),
        {
            "bc": [BOS, EOS, B, C, EOS],
            "": [BOS, EOS, EOS],
            "a c": [BOS, EOS, A, SPACE, C, EOS],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_small_tokenizer_gives_the_ids_of_its_file(name, osp_build, tmp_path):
    words, cases = CASES[name]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(words))
    special = words["post_processor"] is not None
    peer = Tokenizer.from_file(str(file))
    assert [peer.encode(text, add_special_tokens=special).ids for text in cases] == list(cases.values())
    assert encode(osp_build, file, list(cases), special) == list(cases.values())
