'use strict';
(function() {
let data = JSON.parse(document.getElementById('charts').textContent);
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const coarse = window.matchMedia('(pointer: coarse)');
// Colours that people of any colour vision tell apart and that stand out from both backgrounds
// (tests/python/test_report_browser.py computes it). Line style and marker differ as well.
const light = ['#e06b12', '#5a006e', '#2f8cff', '#003b12', '#5e5a0b', '#ae7ba7'];
const bright = ['#ec8f21', '#9145c8', '#9bddff', '#007e5d', '#fed482', '#9e8fd6'];
const dashes = ['solid', 'dash', 'solid', 'dot', 'dashdot', 'longdash'];
const symbols = ['circle', 'square', 'diamond', 'triangle-up', 'cross', 'x'];
const rounds = ['6px,2px', '2px,2px', '9px,3px,2px,3px', '12px,4px', '3px,5px'];
const letters = ['●', '■', '◆', '▲', '✚', '✖'];  // as symbols
const shapes = ['', '/', '.', 'x', '-'];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const by_id = (id) => document.getElementById(id);

// Mean over a centred window that shrinks evenly towards both ends; nulls are left out.
function smoothed(values, window) {
  const sums = [0], counts = [0];
  values.forEach((v, i) => {
    sums.push(sums[i] + (v === null ? 0 : v));
    counts.push(counts[i] + (v === null ? 0 : 1));
  });
  const half = Math.floor((window - 1) / 2);
  return values.map((v, i) => {
    const reach = Math.min(half, i, values.length - 1 - i);
    const count = counts[i + reach + 1] - counts[i - reach];
    return count ? (sums[i + reach + 1] - sums[i - reach]) / count : null;
  });
}

// Seconds of training at `tokens`, between the moments that were logged.
function seconds_at(clock, tokens) {
  const t = clock.tokens, s = clock.seconds;
  if (t.length < 2) return null;
  let low = 0, high = t.length - 1;
  if (tokens >= t[high]) return s[high];
  if (tokens <= t[0]) return t[0] > 0 ? s[0] * tokens / t[0] : s[0];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (t[middle] <= tokens)
      low = middle;
    else
      high = middle;
  }
  return s[low] + (s[high] - s[low]) * (tokens - t[low]) / (t[high] - t[low]);
}

function time_unit() {
  const last = Math.max(
      0, ...data.clocks.map((c) => c.seconds.length ? c.seconds[c.seconds.length - 1] : 0));
  return last > 7200 ? [3600, 'hours'] : last > 300 ? [60, 'minutes'] : [1, 'seconds'];
}

const box_of = (run) => document.querySelector(`#models input[data-run="${run}"]`);

// What tells the model `run` apart: the first six have a colour each, further ones repeat them with
// other marks and dashes.
function look_of(run) {
  const turn = run % light.length, round = Math.floor(run / light.length);
  return {
    color: (dark.matches ? bright : light)[turn],
    dash: round === 0 ? dashes[turn] : rounds[(round - 1) % rounds.length],
    symbol: (turn + round) % symbols.length,
  };
}

function styled(trace, chart, choice) {
  const meta = trace.meta || {};
  const out = Object.assign({}, trace);
  if (meta.choice !== undefined) out.visible = meta.choice === choice;
  const box = box_of(meta.run);
  if (box && !box.checked) out.visible = false;
  if (meta.grid) {
    const grid = meta.grid;
    out.customdata = trace.y.map((y, i) => grid.low + i * grid.step);
    out.x = grid.bend ? out.customdata.map((x) => Math.asinh(x / grid.bend)) : out.customdata;
  }
  if (chart.over_tokens && on_time() && data.clocks[meta.run]) {
    const unit = time_unit()[0];
    out.x = trace.x.map((x) => {
      const seconds = seconds_at(data.clocks[meta.run], x);
      return seconds === null ? null : seconds / unit;
    });
  }
  if (meta.role === 'heat') {
    if (trace.texttemplate && cramped(trace.x.length)) out.texttemplate = '';
    return out;
  }
  if (meta.role === 'reference') {
    out.line = {color: css('--soft'), width: 2, dash: 'dot'};
    return out;
  }
  if (meta.role === 'chance') {
    // The line spans its group of bars.
    const room = (width_of(chart) - 80) / Math.max(1, categories(chart));
    out.marker = {
      symbol: 'line-ew-open',
      size: 0.55 * room,
      color: css('--ink'),
      line: {width: 2, color: css('--ink')}
    };
    return out;
  }
  const look = look_of(meta.run), color = look.color;
  if (meta.role === 'band') {
    out.line = {color: color, width: 0};
    out.fillcolor = color + '30';
    return out;
  }
  if (meta.role === 'bar') {
    out.marker = {
      color: color,
      line: {color: css('--panel'), width: 1},
      pattern: {
        shape: shapes[meta.turn % shapes.length],
        fgcolor: css('--panel'),
        fillmode: 'overlay',
        size: 6
      }
    };
    out.error_y = Object.assign({color: css('--ink'), thickness: 1.2, width: 0}, trace.error_y);
    return out;
  }
  if (meta.role === 'marks') {
    const symbol = symbols[look.symbol];
    out.marker = {
      symbol: meta.hollow ? meta.hollow.map((h) => symbol + (h ? '-open' : '')) : symbol,
      size: 9,
      color: color
    };
    out.error_y = Object.assign({color: color, thickness: 1.5, width: 4}, trace.error_y);
    return out;
  }
  out.line = {color: color, width: 2.2, dash: look.dash};
  if (meta.role === 'level') out.line.width = 1.2;
  if (meta.role === 'raw') {
    out.opacity = 0.28;
    out.line = {color: color, width: 1};
  }
  if (meta.role === 'smooth') {
    const slider = by_id(chart.id + '-smooth');
    const share = slider ? Number(slider.value) / 100 : 0.02;
    out.y = smoothed(trace.y, trace.y.length < 100 ? 1 : Math.floor(share * trace.y.length) | 1);
  }
  if (meta.role === 'points')
    out.marker = {symbol: symbols[look.symbol], size: trace.x.length > 60 ? 3 : 6};
  return out;
}
const categories = (chart) => new Set(chart.traces.flatMap((t) => t.x || [])).size;
const shown_width = (chart) => by_id(chart.id).parentElement.clientWidth;
const cramped = (columns) => window.innerWidth < 640 && columns > 8;
// A chart over many categories may be wider than its frame, which then scrolls.
function width_of(chart) {
  return Math.max(shown_width(chart), 80 + (chart.pixels_per_category || 0) * categories(chart));
}
const on_time = () => {
  const axis = by_id('axis');
  return axis !== null && axis.value === 'time';
};

function themed(chart, choice) {
  const layout = chart.layout;
  const ink = css('--ink'), soft = css('--soft'), grid = css('--grid'), paper = css('--panel');
  const narrow = window.innerWidth < 640;
  const heat = chart.traces.some((t) => t.type === 'heatmap');
  const named = new Set(chart.traces.filter((t) => t.showlegend !== false).map((t) => t.name));
  // What a long legend takes; none where the list of models stands for it.
  const below = data.many ? 0 : Math.max(0, named.size - 3) * (narrow ? 20 : 6);
  const out = Object.assign(
      {
        height: (narrow ? 340 : 380) + below,
        width: width_of(chart),
        margin: {l: narrow ? 52 : 64, r: 14, t: 8, b: 48},
        showlegend: !heat && !data.many,
        legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom'},
      },
      layout);
  const own = chart.traces.find((t) => t.meta && t.meta.height && t.meta.choice === choice);
  if (own) out.height = own.meta.height;  // a heat map is as high as its own model
  if (data.many && out.hovermode === 'x unified') out.hovermode = 'closest';
  out.uirevision = chart.over_tokens && on_time() ? 'time' : 'tokens';
  out.font = {family: 'system-ui, "DejaVu Sans", sans-serif', size: narrow ? 12 : 12.5, color: ink};
  // A finger scrolls the page; a mouse selects what to enlarge.
  out.dragmode = coarse.matches ? false : 'zoom';
  out.paper_bgcolor = paper;
  out.plot_bgcolor = paper;
  out.hoverlabel = {bgcolor: css('--paper'), bordercolor: css('--line'), font: {color: ink}};
  for (const key of Object.keys(layout)) {
    if (!/^[xy]axis\d*$/.test(key)) continue;
    const bottom = key[0] === 'x';
    out[key] = Object.assign(
        {
          automargin: true,
          gridcolor: grid,
          zerolinecolor: soft,
          zerolinewidth: 1,
          linecolor: soft,
          ticks: 'outside',
          tickcolor: grid,
          zeroline: false,
          showline: bottom,
        },
        layout[key]);
    if (bottom && chart.over_tokens && on_time()) {
      out[key].title = {text: 'time trained (' + time_unit()[1] + ')'};
    }
    if (out[key].title)
      out[key].title = Object.assign(
          {font: {color: soft, size: out.font.size}, standoff: heat && bottom ? 24 : 8},
          out[key].title);
  }
  if (layout.coloraxis) {
    const bar = layout.coloraxis.colorbar;
    const title = Object.assign({font: {color: soft, size: out.font.size}}, bar.title);
    out.coloraxis =
        Object.assign({}, layout.coloraxis, {colorbar: Object.assign({}, bar, {title: title})});
  }
  return out;
}

const number = (x) => typeof x === 'number' && isFinite(x) ?
    String(Number(x.toPrecision(4))).replaceAll('-', '−') :
    '–';

// The table of a chart of histograms: the points of what is shown, evenly spread.
function spell_out(chart) {
  const place = by_id(chart.id + '-points');
  if (!place || !place.parentElement.open) return;
  const unit = chart.layout.xaxis.title.text, rows = [];
  for (const trace of by_id(chart.id).data) {
    if (trace.visible === false) continue;
    const xs = trace.customdata || trace.x, step = Math.max(1, (xs.length - 1) / 40);
    for (let i = 0; i < xs.length; i += step) {
      const at = Math.round(i);
      rows.push([trace.name, number(xs[at]), number(trace.y[at])]);
    }
  }
  const cells = (row, tag) => row.slice(1).map((cell) => `<${tag}>${cell}</${tag}>`).join('');
  const line = (row, tag) => `<tr><th scope="row">${row[0]}</th>${cells(row, tag)}</tr>`;
  const header = line(['', unit, chart.layout.yaxis.title.text], 'th');
  place.innerHTML = '<table><thead>' + header + '</thead><tbody>' +
      rows.map((row) => line(row, 'td')).join('') + '</tbody></table>';
}

function draw(chart) {
  const select = by_id(chart.id + '-choice');
  const choice = select ? Number(select.value) : 0;
  return Plotly
      .react(
          by_id(chart.id), chart.traces.map((t) => styled(t, chart, choice)), themed(chart, choice),
          {displaylogo: false, displayModeBar: false})
      .then(() => spell_out(chart));
}

// What scrolls can be reached with the keyboard.
function mark_sideways(chart) {
  const frame = by_id(chart.id).parentElement;
  if (width_of(chart) > shown_width(chart))
    frame.tabIndex = 0;
  else
    frame.removeAttribute('tabindex');
}

function draw_all() {
  mark_models();
  add_downloads();
  for (const chart of data.charts) mark_sideways(chart);
  return Promise.all(data.charts.map(draw)).then((done) => {
    document.documentElement.dataset.drawn = String(done.length);
  });
}

// The list of models: their marks, and which of them are drawn.
function mark_models() {
  for (const box of document.querySelectorAll('#models input')) {
    const look = look_of(Number(box.dataset.run)), swatch = box.nextElementSibling;
    swatch.textContent = letters[look.symbol];
    swatch.style.color = look.color;
  }
}
for (const box of document.querySelectorAll('#models input'))
  box.addEventListener('change', draw_all);
for (const button of document.querySelectorAll('#models button'))
  button.addEventListener('click', () => {
    for (const box of document.querySelectorAll('#models input'))
      box.checked = button.dataset.all !== '';
    draw_all();
  });

// ---- downloads: charts as SVG and PNG, tables as CSV ----

// A cell for programs: numbers without thousands separators and with an ASCII minus.
function csv_cell(text) {
  let cell = text.trim();
  if (/^[−+-]?[\d,]*\.?\d+$/.test(cell)) cell = cell.replace('−', '-').replaceAll(',', '');
  if (cell === '–') cell = '';
  return /[",\n]/.test(cell) ? '"' + cell.replaceAll('"', '""') + '"' : cell;
}
const csv_of =
    (table) => [...table.rows]
                   .map((row) => [...row.cells].map((c) => csv_cell(c.textContent)).join() + '\n')
                   .join('');

function save(name, url) {
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
}
const save_csv = (name, tables) => save(
    name + '.csv',
    'data:text/csv;charset=utf-8,' + encodeURIComponent([...tables].map(csv_of).join('\n')));

function save_chart(id, format) {
  const plot = by_id(id), size = plot._fullLayout;
  const options =
      {format: format, width: size.width, height: size.height, scale: format === 'png' ? 2 : 1};
  return Plotly.toImage(plot, options).then((url) => save(id + '.' + format, url));
}

function button(text, label, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.setAttribute('aria-label', label);
  made.addEventListener('click', act);
  return made;
}

// Adds the buttons that are missing: of each chart in its frame, of other tables below them.
function add_downloads() {
  for (const chart of data.charts) {
    const figure = by_id(chart.id).closest('figure');
    if (figure.querySelector('.save')) continue;
    const title = by_id(chart.id + '-title').textContent, row = document.createElement('div');
    row.className = 'save';
    for (const format of ['svg', 'png'])
      row.append(button(
          format.toUpperCase(), title + ' as ' + format.toUpperCase(),
          () => save_chart(chart.id, format)));
    row.append(button(
        'CSV', title + ' as CSV',
        () => save_csv(chart.id, figure.querySelectorAll('details table'))));
    figure.append(row);
  }
  for (const scroll of document.querySelectorAll('.scroll')) {
    const next = scroll.nextElementSibling;
    if (scroll.closest('figure') || (next && next.className === 'save')) continue;
    const title = scroll.getAttribute('aria-label'), row = document.createElement('div');
    const name = title.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '');
    row.className = 'save';
    row.append(
        button('CSV', title + ' as CSV', () => save_csv(name, scroll.querySelectorAll('table'))));
    scroll.after(row);
  }
}

const redraw = (id) => draw(data.charts.find((chart) => chart.id === id));
for (const chart of data.charts) {
  const select = by_id(chart.id + '-choice');
  if (select) select.addEventListener('change', () => redraw(chart.id));
  const slider = by_id(chart.id + '-smooth');
  if (slider)
    slider.addEventListener('input', () => {
      slider.nextElementSibling.textContent = slider.value;
      redraw(chart.id);
    });
  const points = by_id(chart.id + '-points');
  if (points) points.parentElement.addEventListener('toggle', () => spell_out(chart));
}
let last_width = window.innerWidth, waiting = 0;
window.addEventListener(
    'resize', () => {  // not for a phone's address bar, which changes the height
      if (window.innerWidth === last_width) return;
      last_width = window.innerWidth;
      clearTimeout(waiting);
      waiting = setTimeout(draw_all, 100);
    });
const axis = by_id('axis');
if (axis) axis.addEventListener('change', draw_all);
dark.addEventListener('change', draw_all);
draw_all();

// Takes over a newer state of the page: numbers and tables in place, so that scroll position, zoom
// and open tables stay; a page with other charts or choices is loaded anew.
function take_over(next) {
  const fresh = JSON.parse(next.getElementById('charts').textContent);
  const shape = (d, page) =>
      d.charts.map((c) => c.id + ':' + page.querySelectorAll('#' + c.id + '-choice option').length)
          .join();
  if (shape(fresh, next) !== shape(data, document)) {
    location.reload();
    return;
  }
  data = fresh;
  for (const id of ['top', 'claims', 'results'])
    by_id(id).innerHTML = next.getElementById(id).innerHTML;
  for (const chart of data.charts) {
    const table = (page) =>
        page.getElementById(chart.id).parentElement.querySelector('details .scroll');
    const at = table(document).scrollLeft;
    table(document).innerHTML = table(next).innerHTML;
    table(document).scrollLeft = at;
  }
  draw_all();
}

async function poll() {
  try {
    const version = await (await fetch('version')).text();
    if (version !== data.live) {
      const text = await (await fetch('update')).text();
      take_over(new DOMParser().parseFromString(text, 'text/html'));
    }
  } catch (error) {
    document.documentElement.dataset.offline = 'true';  // the server has gone: keep what is shown
  }
  setTimeout(poll, 3000);
}
if (data.live) setTimeout(poll, 3000);
})();
