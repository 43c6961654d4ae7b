#include "osp/report/page_assets.h"

namespace osp {

const char* const kPageStyle = R"css(
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f7f9; --ink: #16191d; --soft: #565d66; --line: #d9dde3;
  --grid: #e6e9ee; --accent: #0072b2; --good: #00694c; --bad: #b34700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121518; --panel: #1a1e23; --ink: #e8eaed; --soft: #a3abb5; --line: #333a43;
    --grid: #2b3139; --accent: #56b4e9; --good: #3fc79b; --bad: #f08a4b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
  sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .25rem; }
h3 { font-size: 1.02rem; margin: 0; }
main > h3 { margin-top: 1.75rem; }
p { margin: .4rem 0; max-width: 46rem; }
.headline { font-size: 1.15rem; line-height: 1.5; }
.soft, figcaption p, footer { color: var(--soft); }
a { color: var(--accent); }
ul.claims { list-style: none; margin: 1rem 0; padding: 0; max-width: 52rem; }
ul.claims li { padding: .3rem 0 .3rem 1.9rem; position: relative; }
ul.claims li::before { position: absolute; left: .2rem; font-weight: 700; }
ul.claims li.holds::before { content: "✓"; color: var(--good); }
ul.claims li.fails::before { content: "✗"; color: var(--bad); }
ul.claims b { font-weight: 650; }
li.holds b { color: var(--good); }
li.fails b { color: var(--bad); }
.scroll { overflow-x: auto; margin: .75rem 0; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible, .sideways:focus-visible, summary:focus-visible, select:focus-visible, input:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; background: var(--panel); font-weight: 600; white-space: nowrap; }
th:first-child {
  text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--paper); min-width: 6rem;
}
thead th:first-child { background: var(--panel); }
td { white-space: nowrap; }
table.text td, .text td { text-align: left; white-space: pre-wrap; }
.text thead th { text-align: left; }
.charts { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.25rem; margin-top: 1rem; }
@media (min-width: 62rem) {
  .charts { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
  .charts .wide { grid-column: 1 / -1; }
}
figure {
  margin: 0; padding: .9rem .9rem .6rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px; min-width: 0;
}
figcaption p { font-size: .88rem; line-height: 1.45; margin: .2rem 0 .4rem; }
.plot { width: 100%; min-height: 340px; }
.sideways { overflow-x: auto; overflow-y: hidden; }
figure label { font-size: .88rem; }
input[type=range] { width: 9rem; max-width: 45%; vertical-align: middle; accent-color: var(--accent); }
select {
  font: inherit; font-size: .9rem; color: var(--ink); background: var(--paper); padding: .3rem .5rem;
  border: 1px solid var(--line); border-radius: 5px; max-width: 100%;
}
details { margin: .4rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; padding: .2rem 0; }
pre {
  margin: .5rem 0; padding: .7rem .9rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
}
pre b { color: var(--accent); font-weight: 600; }
ul.notes { padding-left: 1.2rem; margin: .4rem 0; }
ul.words { list-style: none; padding: 0; margin: .4rem 0; max-width: 60rem; font-size: .93rem; }
ul.words > li { margin-top: .6rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; font-size: .88rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .75rem 3rem; }
  thead th { white-space: normal; }
  th, td { padding: .4rem .5rem; }
  h1 { font-size: 1.45rem; }
  .headline { font-size: 1.05rem; }
  figure { padding: .7rem .35rem .4rem; }
  figcaption, figure details, figure label { padding: 0 .35rem; }
}
@media print { .scroll { overflow: visible; } details { display: none; } figure { break-inside: avoid; } }
)css";

}  // namespace osp
