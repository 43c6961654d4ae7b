"""The safetensors reader and writer against the reference package, on thousands of damaged files.

Valid files are mutated with a fixed seed: bits and bytes of the file, the header's tokens and structure, its
length, the data's length. Both readers must agree on each, and on the contents of what they accept. Ours may
refuse more only for the reasons that docs/formats.md names.
"""

import json
import random
import re
import struct

import pytest

safetensors = pytest.importorskip("safetensors", reason="needs the PyPI package safetensors")

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

# Where we are stricter, by design.
OUR_REASONS = re.compile(
    r"duplicate key"  # the package lets the last of two equal names win
    r"|dimension \d+ is too large"  # 2^63 and more, which it takes beside a zero
    r"|description is not an object"  # it takes ["F32", [1], [0, 4]] as well
    r"|dtype is not a string"  # and {"dtype": {"F32": null}}
)

TOKENS = [
    "0", "1", "2", "3", "4", "8", "16", "-1", "-0", "1.0", "4e0", "0.5", "1e999", "1e-999", "00",
    "4294967296", "4611686018427387904", "9223372036854775807", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "null", "true", "false", '""', '"x"', "[]", "{}", "[0]", "[1,1]", "[0,0]",
    "[0,4]", '{"F32":null}', '["F32",[1],[0,4]]', '"F32"', '"BF16"', '"F4"', '"F6_E2M3"', '"F8_E4M3"',
    '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"__metadata__"', '"dtype"', '"shape"', '"data_offsets"',
    "[" * 120 + "]" * 120, "[" * 130 + "]" * 130, "NaN", ",", ":", "{", "}", "[", "]", " ", "\n", "\x0c",
    "\x00", "\ufeff", "\x7f", "//",
]  # fmt: skip
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[\[\]{}:,]')


def pack(header: bytes, data: bytes, length=None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length % 2**64) + header + data


def valid_parts(rng):
    """Header (as a list of members, so that names can repeat) and data of a random valid file."""
    members, data = [], b""
    for i in range(rng.randrange(0, 5)):
        dtype = rng.choice(list(BITS))
        shape = [rng.randrange(0, 4) for _ in range(rng.randrange(0, 4))]
        if BITS[dtype] < 8:
            shape.append(rng.choice([0, 4, 8]))
        count = 1
        for dimension in shape:
            count *= dimension
        size = count * BITS[dtype] // 8
        name = rng.choice([f"layers.{i}.weight", f"é{i}", f"../{i}", f"{i}\0", f"😀{i}"])
        fields = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        members.append((name, fields))
        data += rng.randbytes(size)
    rng.shuffle(members)
    if rng.random() < 0.5:
        pairs = {rng.choice("abcé"): rng.choice(["", "pt", "😀"]) for _ in range(rng.randrange(0, 3))}
        members.insert(rng.randrange(len(members) + 1), ("__metadata__", pairs))
    return members, data


def header_text(rng, members) -> str:
    separators = rng.choice([(",", ":"), (", ", ": ")])
    inner = separators[0].join(
        json.dumps(name, ensure_ascii=rng.random() < 0.5) + ":" + json.dumps(value, separators=separators)
        for name, value in members
    )
    return rng.choice(["", "", "", " ", "\n\t"]) + "{" + inner + "}" + " " * rng.randrange(0, 9)


def mutate_members(rng, members, data):
    """Changes the meaning while the header stays JSON: offsets, shapes, dtypes, names."""
    members = [(name, json.loads(json.dumps(value))) for name, value in members]
    tensors = [i for i, (name, _) in enumerate(members) if name != "__metadata__"]
    if not tensors:
        return members
    name, fields = members[i := rng.choice(tensors)]
    match rng.randrange(9):
        case 0:
            fields["data_offsets"][rng.randrange(2)] += rng.choice([-1, 1, 4, -4, 2**63])
        case 1:
            fields["data_offsets"] = [o + rng.choice([1, len(data)]) for o in fields["data_offsets"]]
        case 2:
            fields["data_offsets"].reverse()
        case 3:
            fields["shape"].insert(
                rng.randrange(len(fields["shape"]) + 1), rng.choice([0, 1, 2, 2**32, 2**62, 2**63])
            )
        case 4:
            fields["dtype"] = rng.choice([*BITS, "F128", "f32", ""])
        case 5:
            members.append((name, fields))
        case 6:
            del fields[rng.choice(list(fields))]
        case 7:
            fields[rng.choice(["note", "", "Dtype", "data_offset"])] = rng.choice(
                [1, None, [], {"a": [{}]}, "x"]
            )
        case 8:
            del members[i]
    return members


def mutate_text(rng, text: str) -> str:
    """Replaces, inserts, deletes or doubles tokens."""
    tokens = list(TOKEN.finditer(text))
    if not tokens:
        return text
    at = rng.choice(tokens)
    before, token, after = text[: at.start()], at.group(), text[at.end() :]
    new = rng.choice(TOKENS)
    return rng.choice(
        [before + new + after, before + after, before + token + new + after, before + token + token + after]
    )


def mutate_bytes(rng, file: bytes) -> bytes:
    if not file:
        return b"\0"
    at = rng.randrange(min(len(file), 400))
    match rng.randrange(5):
        case 0:
            return file[:at] + bytes([file[at] ^ (1 << rng.randrange(8))]) + file[at + 1 :]
        case 1:
            return file[:at] + bytes([rng.choice(b'\0\x80\xff"\\{}[],:0 ')]) + file[at + 1 :]
        case 2:
            return file[:at]
        case 3:
            return file[:at] + file[at + 1 :]
        case 4:
            return file[:at] + file[at : at + rng.randrange(1, 20)] + file[at:]


def mutant(rng) -> bytes:
    members, data = valid_parts(rng)
    kind = rng.randrange(6)
    if kind == 1:
        members = mutate_members(rng, members, data)
    text = header_text(rng, members)
    if kind == 2:
        text = mutate_text(rng, text)
    if kind == 3:
        data = rng.choice([data[:-1], data + b"x", b""])
    header = text.encode("utf-8")
    file = pack(header, data, len(header) + rng.choice([-1, 1, 8, 10**8, 2**62]) if kind == 4 else None)
    if kind == 5:
        for _ in range(rng.randrange(1, 4)):
            file = mutate_bytes(rng, file)
    return file


def reference(file: bytes):
    """{name: [dtype, shape, hex]} or the package's refusal."""
    try:
        tensors = safetensors.deserialize(file)
    except safetensors.SafetensorError as error:
        return str(error)
    return {name: [t["dtype"], t["shape"], bytes(t["data"]).hex()] for name, t in tensors}


def read_ours(run_program, path, files):
    with open(path, "wb") as batch:
        for file in files:
            batch.write(struct.pack("<Q", len(file)) + file)
    lines = run_program(["safetensors_probe", "read", path]).stdout.splitlines()
    assert len(lines) == len(files)
    return [json.loads(line) for line in lines]


def test_reader_agrees_with_the_package_on_mutants(run_program, tmp_path):
    rng = random.Random(20260801)
    files = [mutant(rng) for _ in range(12_000)]
    accepted = refused = stricter = 0
    for file, ours in zip(files, read_ours(run_program, tmp_path / "batch", files), strict=True):
        theirs = reference(file)
        if "error" not in ours:
            assert ours["tensors"] == theirs, file
            accepted += 1
        elif isinstance(theirs, dict):
            assert OUR_REASONS.search(ours["error"]), (file, ours["error"])
            stricter += 1
        else:
            refused += 1
    # Each outcome must be met often, or the mutations have lost their point.
    assert accepted > 2000 and refused > 4000 and stricter > 50, (accepted, refused, stricter)


def test_metadata_agrees_with_the_package(run_program, tmp_path):
    rng = random.Random(7)
    files = [
        pack(header_text(rng, members).encode(), data)
        for members, data in (valid_parts(rng) for _ in range(300))
    ]
    compared = 0
    for file, ours in zip(files, read_ours(run_program, tmp_path / "batch", files), strict=True):
        (tmp_path / "f").write_bytes(file)
        with safetensors.safe_open(tmp_path / "f", framework="np") as opened:
            assert ours["metadata"] == (opened.metadata() or {})
            assert sorted(ours["tensors"]) == sorted(opened.keys())
        compared += bool(ours["metadata"])
    assert compared > 50


def test_package_reads_what_we_write(run_program, tmp_path):
    rng = random.Random(11)
    for _ in range(40):
        members, data = valid_parts(rng)
        tensors, metadata = [], {}
        for name, value in members:
            if name == "__metadata__":
                metadata = value
            else:
                begin, end = value["data_offsets"]
                tensors.append(
                    {
                        "name": name,
                        "dtype": value["dtype"],
                        "shape": value["shape"],
                        "hex": data[begin:end].hex(),
                    }
                )
        (tmp_path / "in.json").write_text(json.dumps({"metadata": metadata, "tensors": tensors}))
        run_program(["safetensors_probe", "write", tmp_path / "in.json", tmp_path / "out"])
        assert reference((tmp_path / "out").read_bytes()) == {
            t["name"]: [t["dtype"], t["shape"], t["hex"]] for t in tensors
        }
        with safetensors.safe_open(tmp_path / "out", framework="np") as opened:
            assert (opened.metadata() or {}) == metadata
