"""Models in several GGUF files: written by the package `gguf` and read by osp, and the reverse."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf_export import dequantized
from test_gguf_model import random_llama


@pytest.fixture
def model(tmp_path):
    random_llama().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def export(run_program, source, out, *options, **keywords):
    command = ["osp", "export", source, "--format", "gguf", "--out", out, "--json", *options]
    result = run_program(command, **keywords)
    return result if keywords.get("check") is False else json.loads(result.stdout)


def fields(path) -> dict:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def split_by_the_package(path: Path, folder: Path, tensors_each: int) -> list[Path]:
    """A file written anew by the package's own splitting."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(folder / "s.gguf", "llama", split_max_tensors=tensors_each)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value, kind = field.contents(), field.types[0]
        writer.add_key_value(key, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        writer.add_tensor(tensor.name, tensor.data.reshape(shape), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("s-*.gguf"))


def read_back(run_program, path, out) -> bytes:
    run_program(["osp", "export", path, "--format", "hf", "--out", out])
    return (out / "model.safetensors").read_bytes()


def test_files_that_the_package_splits_are_read_by_the_name_of_any_part(model, tmp_path, run_program):
    export(run_program, model, tmp_path / "m.gguf", "--dtype", "f16")
    parts = split_by_the_package(tmp_path / "m.gguf", tmp_path, 8)
    assert [p.name for p in parts] == [f"s-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    whole = read_back(run_program, tmp_path / "m.gguf", tmp_path / "whole")
    for i, part in enumerate(parts):
        assert read_back(run_program, part, tmp_path / f"from{i}") == whole


def test_parts_that_osp_writes_have_the_keys_and_tensors_of_the_package(model, tmp_path, run_program):
    export(run_program, model, tmp_path / "m.gguf", "--dtype", "f16")
    report = export(run_program, model, tmp_path / "p.gguf", "--dtype", "f16", "--split-size", "60kB")
    parts = [Path(p) for p in report["files"]]
    assert parts == [tmp_path / f"p-{i + 1:05}-of-{len(parts):05}.gguf" for i in range(len(parts))]
    assert len(parts) > 2 and sorted(tmp_path.glob("p*.gguf")) == parts
    whole, total = dequantized(tmp_path / "m.gguf"), 0
    for i, part in enumerate(parts):
        keys, tensors = fields(part), dequantized(part)
        found = [keys[key] for key in ("split.no", "split.count", "split.tensors.count")]
        assert found == [i, len(parts), len(whole)]
        assert ("general.architecture" in keys) == (i == 0)
        assert sum(t.n_bytes for t in gguf.GGUFReader(part).tensors) <= 60_000 or len(tensors) == 1
        assert all(np.array_equal(whole[name], values) for name, values in tensors.items())
        total += len(tensors)
    assert total == len(whole)
    assert read_back(run_program, parts[1], tmp_path / "a") == read_back(
        run_program, tmp_path / "m.gguf", tmp_path / "b"
    )
    # One file where one is enough, under the name that was given.
    report = export(run_program, model, tmp_path / "one.gguf", "--split-size", "2GB")
    assert report["files"] == [str(tmp_path / "one.gguf")]
    # A part that exists is not replaced, and nothing else is written.
    for part in parts[:-1]:
        part.unlink()
    result = export(run_program, model, tmp_path / "p.gguf", "--split-size", "60kB", check=False)
    assert result.returncode == 2 and "exists already" in result.stderr
    assert sorted(tmp_path.glob("p-*")) == parts[-1:]


def rewritten(path: Path, key: str, value: int) -> None:
    """Sets a number in place."""
    reader = gguf.GGUFReader(path, "r+")
    field = reader.fields[key]
    field.parts[field.data[0]][:] = value
    reader.data.flush()


def test_sets_that_do_not_belong_together_are_refused_by_name(model, tmp_path, run_program):
    report = export(run_program, model, tmp_path / "p.gguf", "--dtype", "f16", "--split-size", "100kB")
    parts = [Path(p) for p in report["files"]]
    count = len(parts)

    def refused(*words, path=parts[0]):
        result = run_program(["osp", "export", path, "--format", "hf", "--out", tmp_path / "x"], check=False)
        assert result.returncode == 3 and all(w in result.stderr for w in words), result.stderr
        assert not (tmp_path / "x").exists()

    kept = parts[1].read_bytes()
    parts[1].unlink()
    refused(parts[1].name, "is missing", f"one of {count} parts")
    parts[1].write_bytes(parts[0].read_bytes())
    refused(parts[1].name, "split.no is 0, expected 1")
    parts[1].write_bytes(kept)
    rewritten(parts[1], "split.count", count + 1)
    refused(parts[1].name, f"split.count is {count + 1}, expected {count}")
    parts[1].write_bytes(kept)
    for part in parts:
        rewritten(part, "split.tensors.count", 99)
    refused(parts[0].name, "split.tensors.count is 99, but the parts have")
    for part in parts:
        rewritten(part, "split.tensors.count", report_count(parts))
    rewritten(parts[1], "split.no", 7)
    refused(parts[1].name, "split.no is 7, expected 1")
    rewritten(parts[1], "split.no", 1)
    # The same tensor twice.
    names = [(t.name, part) for part in parts for t in gguf.GGUFReader(part).tensors]
    first, other, holder = next(
        (a, b, part)
        for a, place in names
        for b, part in names
        if a != b and len(a) == len(b) and parts.index(part) > parts.index(place)
    )
    holder.write_bytes(holder.read_bytes().replace(other.encode(), first.encode(), 1))
    refused(holder.name, f'"{first}" is in an earlier part')
    # A name that says nothing of the other parts.
    (tmp_path / "odd.gguf").write_bytes(kept)
    refused("odd.gguf", "rename the parts", path=tmp_path / "odd.gguf")


def report_count(parts) -> int:
    return sum(len(gguf.GGUFReader(p).tensors) for p in parts)
