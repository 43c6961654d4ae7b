"""osp plan: a recipe's run on many devices, by formula."""

import itertools
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "recipes" / "osp-1.4b.toml"
CLUSTER = ["--devices", "512", "--memory", "32GiB", "--bandwidth", "100GB/s", "--flops", "275TFLOP/s"]


@pytest.fixture
def osp(run_program):
    return lambda *words, **keywords: run_program(["osp", *words], **keywords)


def plan(osp, *words) -> dict:
    return json.loads(osp("plan", PAPER, *words, "--json", "--quiet").stdout)


def test_the_papers_model_on_more_devices_than_it_has_matrices(osp):
    text = osp("plan", PAPER, *CLUSTER, "--quiet").stdout
    assert "170 for 512 devices" in text
    found = plan(osp, *CLUSTER)
    best, whole = found["layouts"][found["best"]], found["layouts"][0]
    assert found["matrices"] == 170
    assert whole["busy_groups"] == 170
    assert best["devices_per_matrix"] > 1
    assert best["fits"]
    assert best["seconds"]["step"] <= whole["seconds"]["step"]
    assert 0 < best["mfu"] < found["efficiency"]


def test_parts_add_up(osp):
    found = plan(osp, *CLUSTER)
    for layout in found["layouts"]:
        memory = dict(layout["memory_bytes"])
        assert memory.pop("total") == pytest.approx(sum(memory.values()))
        s = layout["seconds"]
        whole = s["passes"] + s["newton_schulz"] + s["gradients"] + s["weights"]
        assert s["step_without_overlap"] == pytest.approx(whole)
        assert s["step"] == pytest.approx(whole - s["hidden"])


def test_a_slower_wire_costs_what_it_carries(osp):
    fast = plan(osp, *CLUSTER, "--split", "4", "--overlap", "0")["layouts"][0]
    words = [word.replace("100GB/s", "50GB/s") for word in CLUSTER]
    slow = plan(osp, *words, "--split", "4", "--overlap", "0")["layouts"][0]
    carried = sum(fast[f"{part}_bytes"] for part in ("gradient", "weight", "newton_schulz"))
    more = slow["seconds"]["step"] - fast["seconds"]["step"]
    assert more == pytest.approx(carried / 50e9 - carried / 100e9)


def test_memory_is_that_of_the_dry_run_on_one_device(osp):
    alone = plan(osp, "--devices", "1", "--flops", "275T")["layouts"][0]["memory_bytes"]
    dry = json.loads(osp("train", PAPER, "--dry-run", "--json", "--quiet").stdout)["memory_bytes"]
    assert alone["weights"] + alone["fp32_weights"] == pytest.approx(dry["weights"])
    assert alone["total"] == pytest.approx(dry["total"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "2", "--flops", "1T"], "--bandwidth is needed"),
        (["--devices", "1"], "--flops"),
        (["--devices", "0", "--flops", "1T"], "devices"),
        (["--devices", "4096", "--flops", "1T", "--bandwidth", "1G"], "2048 sequences"),
        (["--devices", "2", "--flops", "1T", "--bandwidth", "fast"], "no amount of B/s"),
        (["--devices", "2", "--flops", "1T", "--bandwidth", "1G", "--memory", "8"], "no layout fits"),
        (["--devices", "8", "--flops", "1T", "--bandwidth", "1G", "--groups", "2"], "--split"),
        (["--devices", "8", "--flops", "1T", "--bandwidth", "1G", "--split", "16"], "there are 8"),
        (
            ["--devices", "8", "--flops", "1T", "--bandwidth", "1G", "--set", "optim.name=kfac"],
            "how its work is divided",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(osp, words, said):
    result = osp("plan", PAPER, *words, check=False)
    assert result.returncode == (5 if "fits" in said else 2), result.stderr
    assert said in result.stderr


def test_the_page_on_scaling_shows_what_the_program_prints(osp):
    page = (ROOT / "docs" / "scaling.md").read_text()
    shown = re.search(r"<!-- plan -->\n(.*?)<!-- end of plan -->", page, re.DOTALL)[1]
    printed = osp("plan", PAPER, *CLUSTER, "--quiet").stdout
    assert shown.strip("\n") == "\n".join(("    " + line).rstrip() for line in printed.splitlines())


def page_rows(title: str) -> list[list[str]]:
    """The rows of the page's table under a header that begins with `title`, as cells."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    lines = page[page.index(f"| {title} |") :].splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in itertools.takewhile(lambda x: x.startswith("|"), lines)]
    assert len(rows) > 3
    return rows


def best_of(osp, devices: int, tokens: int) -> dict:
    found = plan(osp, "--devices", devices, "--bandwidth", "100GB/s", "--flops", "275T",
                 "--set", f"train.batch_tokens={tokens}")  # fmt: skip
    return found["layouts"][found["best"]]


def test_the_pages_table_of_small_steps(osp):
    for tokens, *shares in page_rows("tokens a step"):
        for devices, share in zip((8, 64), shares, strict=True):
            best = best_of(osp, devices, int(tokens.replace(",", "")))
            assert f"{100 * best['of_adam']:.2f} %" == share


def test_the_pages_table_of_strong_scaling(osp):
    for devices, step, mfu, share in page_rows("devices"):
        best = best_of(osp, int(devices), 4194304)
        assert f"{best['seconds']['step']:.2f} s" == step
        assert f"{100 * best['mfu']:.1f} %" == mfu
        assert f"{100 * best['of_adam']:.2f} %" == share
