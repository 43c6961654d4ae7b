"""Writes synthetic run folders in the format of docs/formats.md, for tests of `osp report`."""

import json
import math
from pathlib import Path

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">&<b>'"


def validation(step, tokens, level, peak, layers, token):
    per_layer = [level * (0.2 + 1.6 * layer / layers) for layer in range(layers + 1)]
    mean = sum(per_layer) / len(per_layer)
    return {
        "kind": "validation", "step": step, "tokens": tokens,
        "loss": 2.7 + 5.5 * math.exp(-step / 150), "perplexity": 20.0,
        "excess_kurtosis": {"mean": mean, "clipped_mean": max(mean, 0.0), "per_layer": per_layer},
        "largest_activation": {"value": peak, "layer": 3, "position": 1, "channel": 17, "token": token},
        "largest_attention_logit": 8 + step / 200, "gains": {"norm": 1.0},
    }  # fmt: skip


def histogram(layer, spread, tail):
    """A Gaussian of standard deviation `spread` with a heavier tail of weight `tail`."""
    reach = spread * (6 + 60 * tail)
    bins = 201
    width = 2 * reach / bins
    counts = []
    for i in range(bins):
        x = -reach + (i + 0.5) * width
        body = math.exp(-0.5 * (x / spread) ** 2) / spread
        heavy = tail * 1e-3 * math.exp(-abs(x) / (spread * (1 + 8 * tail))) / spread
        counts.append(int(2e7 * width * (body + heavy)))
    return {"point": "residual", "layer": layer, "low": -reach, "high": reach,
            "counts": counts, "mean": 0.0, "std": spread}  # fmt: skip


def cost(own, rotated):
    """What osp analyze measures at few bits, with an outlier tax of own - rotated."""
    part = {"own": own, "rotated": rotated, "rotated_deviation": 2e-4, "rotated_values": [rotated, rotated],
            "tax": own - rotated, "error": 1e-4, "share": (own - rotated) / own}  # fmt: skip
    sites = ["attention_input", "mlp_input", "attention_output", "mlp_product", "cache", "weights"]
    return {
        "outlier_tax": {"bits": "4-4-4", "tokens": 8128, "window": 256, "kl": 2 * own, "added_nats": 0.03,
                        "own_added_nats": 0.02, "readers": part, "generators": part, **part},
        "attribution": {"tokens": 1024, "all": 2 * own, "layers": [],
                        "sites": [{"site": site, "only": own / (i + 1), "without": own}
                                  for i, site in enumerate(sites)]},
        "bases": [{"basis": "own", "block": 0, "reader_kurtosis": 1.0, "kl": own, "added_nats": own},
                  {"basis": "principal", "block": 0, "reader_kurtosis": 9, "kl": 2 * own, "added_nats": own},
                  {"basis": "mixed", "block": 4, "reader_kurtosis": 4.0, "kl": own, "added_nats": own}],
        "verdict": ["What outliers cost at 4-4-4: nothing <b>here</b>.", "What to do: nothing."],
    }  # fmt: skip


def write_run(
    folder: Path,
    *,
    rate,
    final_kurtosis,
    peak,
    perplexities,
    steps=1500,
    layers=6,
    tokens_per_step=2048,
    log_every=1,
    text="a word",
    extra_files=True,
    tax=None,
    seed=1,
    optimizer=None,
    norm=None,
    projection=None,
):
    """A run whose kurtosis grows to `final_kurtosis` and whose largest activation grows to `peak`."""
    folder.mkdir(parents=True)
    adam = "adam" in folder.name
    recipe = {
        "run": {"seed": seed},
        "model": {"layers": layers, "width": 256, "norm": norm or ("rms" if adam else "single-scale"),
                  "embedding_projection": not adam if projection is None else projection},
        "optim": {"lr": rate, "name": optimizer or ("adam" if adam else "osp")},
        "train": {"note": text},
    }  # fmt: skip
    records = [{"kind": "start", "step": 0, "tokens": 0, "recipe": recipe, "parameters": 7_000_000,
                "osp_version": "0.1.0", "device": text}]  # fmt: skip
    for step in range(log_every, steps + 1, log_every):
        share, tokens = step / steps, step * tokens_per_step
        noise = 0.08 * math.sin(step * 12.9898) + 0.05 * math.sin(step * 78.233)
        lr = rate * min(1, step / 100) * min(1, 5 * (1.0001 - share))
        records.append({
            "kind": "step", "step": step, "tokens": tokens,
            "loss": None if step == 700 else 2.7 + 5.6 * math.exp(-step / 150) + noise,
            "lr": lr, "momentum": 0.95, "weight_decay": 0.01,
            "gradient_norm": {"all": 0.4 + abs(noise)}, "update_norm": {"muon": 1.0},
            "tokens_per_s": 5000.0 + 100 * noise, "mfu": 0.1, "peak_memory_bytes": 900_000_000,
            "seconds": step * 0.4, "skipped": step == 700,
        })  # fmt: skip
        if step % 50 == 0:
            records.append(validation(step, tokens, final_kurtosis * share**2,
                                      6 + (peak - 6) * share**3, layers, text))  # fmt: skip
        if step % 500 == 0:
            records.append({"kind": "sample", "step": step, "prompt": "The word " + text,
                            "text": " is used of a thing that is " + text + "\n"})  # fmt: skip
    records.append({"kind": "end", "step": steps, "tokens": steps * tokens_per_step, "seconds": steps * 0.4})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if not extra_files:
        return
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "eval.json").write_text(json.dumps({
        "model": str(folder / "model"), "data": text,
        "results": [{"bits": b, "perplexity": p, "loss": 3.0, "tokens": 1000, "window": 256, "seconds": 1.0}
                    for b, p in perplexities.items()]}))  # fmt: skip
    last = validation(steps, steps * tokens_per_step, final_kurtosis, peak, layers, text)
    (folder / "analysis.json").write_text(json.dumps({
        "model": str(folder / "model"), "data": text, "tokens": 65536,
        "excess_kurtosis": last["excess_kurtosis"], "largest_activation": last["largest_activation"],
        "histograms": [histogram(i, 1 + i / 2, max(final_kurtosis, 0) / 10 * i / layers)
                       for i in range(layers + 1)],
        **({} if tax is None else {"cost": cost(*tax)})}))  # fmt: skip


def write_demo(root: Path, text="a word"):
    """Three runs like those of the demo; returns their folders."""
    write_run(root / "adam", rate=3e-3, final_kurtosis=8.5, peak=1792.0, text=text,
              perplexities={"16-16-16": 28.4, "4-4-4": 29.0})  # fmt: skip
    write_run(root / "adam-best", rate=1e-3, final_kurtosis=0.79, peak=44.0, text=text,
              perplexities={"16-16-16": 23.1, "4-4-4": 23.9})  # fmt: skip
    write_run(root / "osp", rate=3e-3, final_kurtosis=-0.05, peak=56.0, text=text,
              perplexities={"16-16-16": 16.7, "4-4-4": 17.5})  # fmt: skip
    return [root / "adam", root / "adam-best", root / "osp"]
