"""`osp report` of a long run of a deep model: a small page in bounded time and memory, no spike lost."""

import itertools
import json
import re
import subprocess
import sys

STEPS, LAYERS, EVERY = 200_000, 24, 20
SPIKE_STEP, SPIKE_LAYER = 123_460, 17
# A process counts the memory of the one that it was forked from as its own peak: a small one stands between.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def write_long_run(folder):
    """A record of every step, a validation every 20: 37 MB, with one spike in loss and kurtosis."""
    folder.mkdir()
    start = {"kind": "start", "step": 0, "tokens": 0, "recipe": {}, "parameters": 1, "osp_version": "0.1.0"}
    end = {"kind": "end", "step": STEPS, "tokens": STEPS * 1000, "seconds": STEPS * 0.5}
    step = ('{"kind":"step","step":%d,"tokens":%d,"loss":%.4f,"lr":0.001,"gradient_norm":{"all":%.4f},'
            '"tokens_per_s":2000,"seconds":%.1f,"peak_memory_bytes":1000}\n')  # fmt: skip
    validation = ('{"kind":"validation","step":%d,"tokens":%d,"loss":3.1,'
                  '"excess_kurtosis":{"mean":%.3f,"per_layer":%s},'
                  '"largest_activation":{"value":%.3f,"layer":3},'
                  '"largest_attention_logit":8.5}\n')  # fmt: skip
    with open(folder / "metrics.jsonl", "w") as file:
        file.write(json.dumps(start) + "\n")
        for i in range(1, STEPS + 1):
            loss = 987.6543 if i == SPIKE_STEP else 3 + 0.1 * (i * 7919 % 97) / 97
            file.write(step % (i, i * 1000, loss, 0.5 + loss / 10, i * 0.5))
            if i % EVERY:
                continue
            layers = [0.1 + 0.01 * (i // EVERY * 31 % 10)] * (LAYERS + 1)
            if i == SPIKE_STEP:
                layers[SPIKE_LAYER] = 765.432
            file.write(validation % (i, i * 1000, max(layers), json.dumps(layers), 6 + max(layers)))
        file.write(json.dumps(end) + "\n")


def peak_of_report(osp_build, run, out):
    command = [osp_build / "osp", "report", run, "--out", out, "--quiet"]
    result = subprocess.run(
        [sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True
    )
    return int(result.stdout.splitlines()[-1]) * 1024


def chart(page, name):
    data = json.loads(re.search(r'id="charts">(.*?)</script>', page, re.S)[1])
    return next(chart for chart in data["charts"] if chart["id"] == name)


def test_long_run_of_a_deep_model_stays_small_and_keeps_its_spikes(osp_build, tmp_path):
    write_long_run(tmp_path / "long")
    metrics = (tmp_path / "long" / "metrics.jsonl").stat().st_size
    (tmp_path / "short").mkdir()
    with open(tmp_path / "long" / "metrics.jsonl") as file:
        (tmp_path / "short" / "metrics.jsonl").write_text("".join(itertools.islice(file, 30)))
    # The program with its libraries takes as much with any run.
    own = peak_of_report(osp_build, tmp_path / "short", tmp_path / "r.html")
    peak = peak_of_report(osp_build, tmp_path / "long", tmp_path / "r.html")
    print(f"{metrics / 1e6:.0f} MB of records, peak {peak / 1e6:.0f} MB, of it the program's {own / 1e6:.0f}")
    assert (tmp_path / "r.html").stat().st_size < 10_000_000
    assert peak - own < 2.5 * metrics
    page = (tmp_path / "r.html").read_text()
    raw = chart(page, "training-loss")["traces"][0]
    assert len(raw["y"]) <= 2000 and raw["meta"]["role"] == "raw"
    at = raw["y"].index(987.654)
    assert raw["x"][at] == SPIKE_STEP * 1000
    kurtosis = chart(page, "kurtosis")["traces"][0]
    assert kurtosis["customdata"][kurtosis["x"].index(SPIKE_STEP * 1000)] == 765.432
    heat = chart(page, "heat")["traces"][0]
    assert len(heat["customdata"]) == LAYERS + 1
    assert [layer.count(765.432) for layer in heat["customdata"]] == [
        int(i == SPIKE_LAYER) for i in range(LAYERS + 1)
    ]
