"""Strings and tokenizers for test_tokenizer.py: random text of many scripts, and small tokenizer.json files
that between them use every component in every variant."""

import copy
import json
import random

POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " \t\n\r", "'\u2019.,;:!?()[]{}<>|_-/\\\"",
    "éèüßñçøåÉİıſK", "αβγδεζΩΣς", "абвгдеёЖЯ", "אבגדה", "ابتثج", "कखगघङिीुू्", "ไทยภาษา",
    "漢字仮名交じり文", "한국어조선말", "😀👍🏽👩‍👩‍👧‍👦🇩🇪❤️", "\u0300\u0301\u0323\u0327\u0345\u20dd",
    "\x00\x01\x1b\x7f\x85\xa0\xad\u1680\u180e\u2000\u2028\u2029\u200b\u200c\u200d\u202f\u205f\u3000\ufeff\ufffd",
    "²³¹¼½⅓Ⅻ①٣", "▁Ġ", "\U00010400\U0001d400\U0001e900\U000e0041",
]  # fmt: skip
WORDS = [
    " the", " of", "'s", "n't", " don't", "The", " 12", " 1999", "  ", "\n\n", "'ll", "'LL", "ing", "tion",
    " ▁", "<0x0A>", "http://", "<s>", "</s>", "<unk>",
]  # fmt: skip
STRAY_BYTES = [0x80, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xA0, 0xF0, 0x90, 0xF4, 0xF5, 0xFF]


def random_texts(count: int, seed: int, added: list[str], any_character: bool = True) -> list[bytes]:
    """Texts as bytes; about a quarter have bytes changed so that they are not UTF-8."""
    r = random.Random(seed)
    words = WORDS + 3 * added
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(r.choice([1, 2, 3, 5, 8, 13, 21])):
            kind = r.random()
            if kind < 0.3:
                parts.append(r.choice(words))
            elif kind < 0.75:
                pool = r.choice(POOLS)
                parts.append("".join(r.choice(pool) for _ in range(r.randint(1, 6))))
            elif kind < 0.85 or not any_character:
                parts.append(r.choice(r.choice(POOLS)) * r.randint(1, 20))
            else:
                code = r.randrange(0x110000)
                parts.append("" if 0xD800 <= code < 0xE000 else chr(code))
        data = bytearray("".join(parts).encode())
        if r.random() < 0.25:
            for _ in range(r.randint(1, 4)):
                at = r.randrange(len(data) + 1)
                if r.random() < 0.5 and at < len(data):
                    data[at] = r.randrange(256)
                else:
                    data[at:at] = bytes([r.choice(STRAY_BYTES)])
        texts.append(bytes(data))
    return texts


def small_model(byte_level: bool, **settings) -> dict:
    """A BPE model with a few merges. Character models know few characters, so that much is unknown."""
    merges = ["t h", "i n", "o n", "a b", "th e", "in g", "2 3", "a a", "aa aa", "1 2"]
    if byte_level:
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(68)]
        merges = ["Ġ t", "Ġt h", "Ġth e", "Ġ Ġ", "Ã ©", "Ċ Ċ", *merges]
    else:
        alphabet = list("abcdefghijklmnopqrstuvwxyz ABC.,0123'\n▁éä日_")
        merges = ["▁ t", "▁t h", "▁ ▁", "▁▁ ▁▁", *merges]
    vocabulary = ["<unk>", *settings.pop("extra", []), *alphabet]
    vocabulary += [m.replace(" ", "") for m in merges if m.replace(" ", "") not in vocabulary]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": False}  # fmt: skip
    model |= settings
    return model | {"vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": merges}


def tokenizer_json(model: dict, **parts) -> dict:
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None}  # fmt: skip
    return base | copy.deepcopy(parts) | {"model": model}


def added_token(number: int, content: str, **flags) -> dict:
    token = {"id": 1000 + number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}  # fmt: skip
    return token | flags


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTE_FALLBACK = [f"<0x{b:02X}>" for b in range(256)]
SPLIT_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: dict, behavior: str, invert: bool = False) -> dict:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(key: str, *parts: dict) -> dict:
    return {"type": "Sequence", key: list(parts)}


def pre_tokenizer_cases() -> dict[str, dict]:
    cases = {}
    for prefix in (False, True):
        for regex in (False, True):
            step = BYTE_LEVEL | {"add_prefix_space": prefix, "use_regex": regex}
            cases[f"byte level, prefix {prefix}, regex {regex}"] = tokenizer_json(
                small_model(True), pre_tokenizer=step, decoder=BYTE_LEVEL)  # fmt: skip
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            for kind, pattern in (
                ("String", "a"),
                ("Regex", r"\s|[.,']"),
                ("Regex", r"\w+"),
                ("Regex", r"\s*"),
            ):
                cases[f"split {kind} {pattern} {behavior}, invert {invert}"] = tokenizer_json(
                    small_model(False), pre_tokenizer=split({kind: pattern}, behavior, invert))  # fmt: skip
    for individual in (False, True):
        digits = {"type": "Digits", "individual_digits": individual}
        cases[f"digits, individual {individual}"] = tokenizer_json(small_model(False), pre_tokenizer=digits)
        cases[f"digits, individual {individual}, byte level"] = tokenizer_json(
            small_model(True), pre_tokenizer=sequence("pretokenizers", digits, BYTE_LEVEL),
            decoder=BYTE_LEVEL)  # fmt: skip
    for scheme in ("always", "first", "never"):
        for cut in (False, True):
            meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
            cases[f"metaspace {scheme}, split {cut}"] = tokenizer_json(
                small_model(False), pre_tokenizer=meta, decoder=meta,
                added_tokens=[added_token(0, "<x>")])  # fmt: skip
    cases["llama 3"] = tokenizer_json(
        small_model(True, ignore_merges=True), decoder=BYTE_LEVEL,
        pre_tokenizer=sequence("pretokenizers", split({"Regex": SPLIT_DIGITS}, "Isolated"),
                               BYTE_LEVEL | {"use_regex": False}))  # fmt: skip
    cases["byte level before split"] = tokenizer_json(
        small_model(True), decoder=BYTE_LEVEL,
        pre_tokenizer=sequence("pretokenizers", BYTE_LEVEL, split({"String": "Ġ"}, "Isolated")))  # fmt: skip
    return cases


def model_cases() -> dict[str, dict]:
    llama = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}  # fmt: skip
    spaces = sequence("normalizers", {"type": "Prepend", "prepend": "▁"},
                      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})  # fmt: skip
    cases = {}
    for fuse in (False, True):
        cases[f"unknown, fuse {fuse}"] = tokenizer_json(
            small_model(False, unk_token="<unk>", fuse_unk=fuse), normalizer=spaces,
            decoder=llama)  # fmt: skip
        cases[f"some byte tokens, fuse {fuse}"] = tokenizer_json(
            small_model(False, unk_token="<unk>", fuse_unk=fuse, byte_fallback=True,
                        extra=BYTE_FALLBACK[:0xC4]),
            normalizer=spaces, decoder=llama)  # fmt: skip
    cases["byte fallback"] = tokenizer_json(
        small_model(False, unk_token="<unk>", byte_fallback=True, extra=BYTE_FALLBACK), normalizer=spaces,
        decoder=llama)  # fmt: skip
    cases["ignore merges"] = tokenizer_json(
        small_model(False, ignore_merges=True, extra=["hello", "▁b"]),
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                       "split": True})  # fmt: skip
    pairs = small_model(True)
    pairs["merges"] = [m.split(" ") for m in pairs["merges"]]
    cases["merges as pairs"] = tokenizer_json(pairs, pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL)
    return cases


def normalizer_cases() -> dict[str, dict]:
    regex = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|é"}, "content": "_"}
    steps = [{"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"},
             regex, {"type": "Strip", "strip_left": True, "strip_right": True},
             {"type": "Strip", "strip_left": True, "strip_right": False},
             {"type": "Strip", "strip_left": False, "strip_right": True}]  # fmt: skip
    return {
        f"normalizer {json.dumps(step)}": tokenizer_json(
            small_model(True), normalizer=step, pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL)
        for step in [*steps, sequence("normalizers", *steps[:2], steps[4])]
    }  # fmt: skip


def added_token_cases() -> dict[str, dict]:
    upper = {"type": "Lowercase"}
    tokens = [
        added_token(0, "<x>"), added_token(1, "<x><y>"), added_token(2, "<l>", lstrip=True),
        added_token(3, "<r>", rstrip=True), added_token(4, "word", single_word=True),
        added_token(5, "ÉTÉ", normalized=True), added_token(6, "  ", lstrip=True, rstrip=True),
        added_token(7, "<sp>", special=True, lstrip=True, rstrip=True),
        added_token(8, "then", single_word=True, rstrip=True),
    ]  # fmt: skip
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [2, 3],
                                            "tokens": ["</s>", "a"]}}}  # fmt: skip
    byte_level = {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}, "decoder": BYTE_LEVEL}
    return {
        "added tokens": tokenizer_json(small_model(True), added_tokens=tokens, **byte_level),
        "added tokens, lower case": tokenizer_json(small_model(True), added_tokens=tokens, normalizer=upper,
                                                   **byte_level),
        "added tokens, no decoder": tokenizer_json(small_model(False), added_tokens=tokens),
        "template": tokenizer_json(small_model(True), added_tokens=tokens, post_processor=sequence(
            "processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                           "use_regex": True},
            template), **byte_level),
    }  # fmt: skip


def all_cases() -> dict[str, dict]:
    cases = pre_tokenizer_cases() | model_cases() | normalizer_cases() | added_token_cases()
    for case in cases.values():  # added tokens come right behind the vocabulary, as the peer numbers them
        for i, token in enumerate(case["added_tokens"]):
            token["id"] = len(case["model"]["vocab"]) + i
    return cases
