"""TensorBoard itself reads our event files: values, steps, times, text, and a resumed run."""

import json
import math
import random
import struct

import pytest

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the PyPI package tensorboard"
)


def write(run_program, folder, scratch, scalars=(), texts=(), start=1.7e9, resumed_at=None):
    folder.mkdir(exist_ok=True)
    description = {"start": start, "resumed_at": resumed_at, "scalars": list(scalars), "texts": list(texts)}
    scratch.write_text(json.dumps(description))
    run_program(["tensorboard_probe", folder, scratch])


def load(folder):
    keep_all = {event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0}
    return event_accumulator.EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def test_scalars_come_back_with_step_and_time(run_program, tmp_path):
    rng = random.Random(1)
    steps = sorted(rng.sample(range(2**40), 200))
    values = [rng.uniform(-1, 1) * 10 ** rng.randrange(-30, 30) for _ in steps]
    points = [["train/loss", s, v, 1.7e9 + i / 8] for i, (s, v) in enumerate(zip(steps, values, strict=True))]
    points += [["lr é", 0, 0.1, 1.7e9], ["lr é", 1, None, 1.7e9]]
    write(run_program, tmp_path / "run", tmp_path / "in.json", points)
    events = load(tmp_path / "run")
    assert sorted(events.Tags()["scalars"]) == ["lr é", "train/loss"]
    read = events.Scalars("train/loss")
    assert [(e.step, e.value, e.wall_time) for e in read] == [
        (s, float32(v), t) for _, s, v, t in points[:200]
    ]
    assert math.isnan(events.Scalars("lr é")[1].value)
    assert events.FirstEventTimestamp() == 1.7e9


def test_text_comes_back_for_the_text_plugin(run_program, tmp_path):
    texts = [
        ["sample", 10, "one *two*\nthree", 1.7e9],
        ["sample", 20, "é😀" + "x" * 1000, 1.7e9],
        ["sample", 30, "", 1.7e9],
    ]
    write(run_program, tmp_path / "run", tmp_path / "in.json", texts=texts)
    events = load(tmp_path / "run")
    assert events.SummaryMetadata("sample").plugin_data.plugin_name == "text"
    read = events.Tensors("sample")
    assert [(e.step, e.tensor_proto.string_val[0].decode()) for e in read] == [(s, t) for _, s, t, _ in texts]
    assert all(next(iter(e.tensor_proto.tensor_shape.dim)).size == 1 for e in read)


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(run_program, tmp_path):
    run, scratch = tmp_path / "run", tmp_path / "in.json"
    write(run_program, run, scratch, [["loss", s, 1.0, 1.7e9] for s in range(10)])
    write(
        run_program,
        run,
        scratch,
        [["loss", s, 2.0, 1.7e9] for s in range(6, 12)],
        start=1.7e9 + 60,
        resumed_at=6,
    )
    assert len(list(run.iterdir())) == 2
    read = load(run).Scalars("loss")
    assert [(e.step, e.value) for e in read] == [(s, 1.0 if s < 6 else 2.0) for s in range(12)]


def test_a_torn_last_record_loses_nothing_before_it(run_program, tmp_path):
    run = tmp_path / "run"
    write(run_program, run, tmp_path / "in.json", [["loss", s, float(s), 1.7e9] for s in range(5)])
    (file,) = run.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert [e.step for e in load(run).Scalars("loss")] == [0, 1, 2, 3]
