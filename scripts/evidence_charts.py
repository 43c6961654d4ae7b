#!/usr/bin/env python3
"""Draws the pictures of docs/evidence.md from its files, as SVG.

    scripts/evidence_charts.py [--check]

docs/evidence-training.svg: the outlier tax and R over the length of training, every seed a mark, from
docs/evidence.jsonl. docs/evidence-bases.svg: divergence against kurtosis of the same functions in other
bases, from docs/measured/causes.json. Colours and marks are those of the pages of `osp report`. --check
changes nothing and ends with status 1 if a picture is not that of its files.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean

import measured_evidence
import race
from measuring import ROOT, load

# As in osp/report/page.js and page.css, on light and on dark ground.
STYLE = """
    .ink { fill: #16191d } .soft { fill: #565d66 } .grid { stroke: #d9dde3 } .zero { stroke: #565d66 }
    .adam { fill: #e06b12; stroke: #e06b12 } .osp { fill: #5a006e; stroke: #5a006e }
    .r { fill: #0072b2; stroke: #0072b2 } .line { fill: none; stroke-width: 2 }
    .ring { fill: none; stroke-width: 2 } .dashed { stroke-dasharray: 5 4 }
    @media (prefers-color-scheme: dark) {
      .ink { fill: #e8eaed } .soft { fill: #a3abb5 } .grid { stroke: #333a43 } .zero { stroke: #a3abb5 }
      .adam { fill: #ec8f21; stroke: #ec8f21 } .osp { fill: #9145c8; stroke: #9145c8 }
      .r { fill: #56b4e9; stroke: #56b4e9 } .line, .ring { fill: none }
    }"""
WIDTH, HEIGHT = 330, 220  # of what lies between the axes


def text(x: float, y: float, words: str, style: str = "ink", anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def mark(x: float, y: float, style: str, hollow: bool = False) -> str:
    """A square for OSP, else a circle, as on the pages of `osp report`."""
    names = f"{style} ring" if hollow else style
    if style == "osp":
        return f'<rect class="{names}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<circle class="{names}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


@dataclass
class Panel:
    """Axes at a place of the picture, with the numbers that stand at them."""

    left: float
    top: float
    title: str
    across: str  # what the horizontal axis shows
    x_ticks: list
    y_ticks: list
    x_label: Callable[[float], str]
    y_label: Callable[[float], str]
    logarithmic: bool = False
    parts: list = field(default_factory=list)

    def x(self, value: float) -> float:
        scale = math.log if self.logarithmic else float
        first, last = scale(self.x_ticks[0]), scale(self.x_ticks[-1])
        return self.left + WIDTH * (scale(value) - first) / (last - first)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.top + HEIGHT * (high - value) / (high - low)

    def rule(self, value: float, style: str) -> None:
        y = self.y(value)
        self.parts.append(
            f'<line class="{style}" x1="{self.left}" y1="{y:.1f}" x2="{self.left + WIDTH}" y2="{y:.1f}"/>'
        )

    def axes(self) -> None:
        for value in self.y_ticks:
            self.rule(value, "grid")
            self.parts.append(text(self.left - 8, self.y(value) + 4, self.y_label(value), "soft", "end"))
        for value in self.x_ticks:
            self.parts.append(text(self.x(value), self.top + HEIGHT + 18, self.x_label(value), "soft"))
        self.parts.append(text(self.left, self.top - 14, self.title, "ink", "start"))
        self.parts.append(text(self.left + WIDTH / 2, self.top + HEIGHT + 38, self.across, "soft"))

    def marks(self, points: list[tuple[float, float]], style: str) -> None:
        self.parts += [mark(self.x(x), self.y(y), style) for x, y in points]

    def line(self, points: list[tuple[float, float]], style: str) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{style} line" points="{path}"/>')


def picture(title: str, panels: list[Panel], legend: list[tuple[str, str]]) -> str:
    width = panels[-1].left + WIDTH + 34
    parts = [part for panel in panels for part in panel.parts]
    at = panels[0].left
    for style, words in legend:
        parts += [mark(at + 5, 18, style), text(at + 16, 22, words, "ink", "start")]
        at += 40 + 8 * len(words)
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 120}" width="{width}"'
        ' font-size="13" font-family="system-ui, sans-serif" role="img" aria-labelledby="title">\n'
        f'  <title id="title">{title}</title>\n  <style>{STYLE}\n  </style>\n{body}\n</svg>\n'
    )


def training() -> str:
    """Tax of both arms and R at their best rates, over the steps of the tiny stages."""
    stages = measured_evidence.LENGTHS
    pairs = {race.STAGES[stage].steps: measured_evidence.pairs_of(stage) for stage in stages}

    def steps(value: float) -> str:
        return f"{value:,.0f}"

    def hundredths(value: float) -> str:
        return measured_evidence.number(value, 2)

    across, lengths = "steps of 512 tokens", list(pairs)
    tax = Panel(70, 70, "outlier tax, nats a token", across, lengths, [-0.01, 0, 0.01, 0.02, 0.03],
                steps, hundredths, True)  # fmt: skip
    ratio = Panel(490, 70, "R: added nats of Adam / of OSP", across, lengths,
                  [0.8, 1, 1.2, 1.4, 1.6, 1.8], steps, lambda y: f"{y:.1f}", True)  # fmt: skip
    tax.axes()
    tax.rule(0, "zero")
    for i, style in enumerate(race.OPTIMIZERS):
        tax.marks([(x, pair[i]["tax"]) for x, found in pairs.items() for pair in found], style)
        tax.line([(x, mean(pair[i]["tax"] for pair in found)) for x, found in pairs.items()], style)
    ratio.axes()
    ratio.rule(1, "zero")
    ratio.rule(1.5, "zero dashed")
    seeds = {x: [adam["added_nats"] / osp["added_nats"] for adam, osp in found] for x, found in pairs.items()}
    ratio.marks([(x, value) for x, values in seeds.items() for value in values], "r")
    ratio.line([(x, mean(values)) for x, values in seeds.items()], "r")
    title = "Outlier tax of Adam and of OSP, and the ratio of their added nats, over the length of training"
    return picture(title, [tax, ratio], [("adam", "Adam"), ("osp", "OSP"), ("r", "R; lines: means of seeds")])


def bases() -> str:
    """The demo's models in other bases; the own one is hollow."""
    panel = Panel(70, 70, "divergence at 4-4-4, nats a token", "excess kurtosis of what the readers get",
                  [-2, 0, 2, 4, 6, 8, 10], [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
                  lambda x: measured_evidence.number(x, 0), lambda y: f"{y:.2f}")  # fmt: skip
    panel.axes()
    models = {model["name"]: model["cost"]["bases"] for model in load("causes")["result"]["models"]}
    for name, label in measured_evidence.DEMO.items():
        panel.parts += [
            mark(panel.x(one["reader_kurtosis"]), panel.y(one["kl"]), label.lower(), one["basis"] == "own")
            for one in models[name]
        ]
    title = "Divergence against kurtosis of the same functions in other bases"
    return picture(title, [panel], [("adam", "Adam"), ("osp", "OSP; hollow: own basis")])


PICTURES = {"evidence-training.svg": training, "evidence-bases.svg": bases}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 for another picture")
    check = parser.parse_args().check
    status = 0
    for name, draw in PICTURES.items():
        path = ROOT / "docs" / name
        if path.exists() and path.read_text() == draw():
            continue
        status |= check
        print(f"{name} {'is not that of its files' if check else 'written'}")
        if not check:
            path.write_text(draw())
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
