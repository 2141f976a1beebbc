// Charts, drawn by uPlot in the colours of the page; drawn again when the page changes between light and dark.
"use strict";

// Okabe and Ito's colours, which differ for colour-blind eyes too; dashes differ as well.
const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#000000", "#7A5195"];
const DARK = ["#56B4E9", "#E69F00", "#2CC295", "#E39AC6", "#F0E442", "#7FA8FF", "#E6E6E6", "#B89CD8"];
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
const darkness = matchMedia("(prefers-color-scheme: dark)");
const charts = [];

function palette() {
  return darkness.matches ? DARK : LIGHT;
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function shorten(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

// One chart in `place`: {x, series: {name: values}} and, where wanted, `band` [low, high], `held` {mean, low, high},
// `stacked`, `share` (the axis is 0 to 1), `marked`, `height`, `xLabel`; `lines` names the series that stand still
// (thresholds), which are drawn thin and dashed.
function draw(place, chart) {
  const made = {place, chart, plot: null};
  charts.push(made);
  redraw(made);
  new ResizeObserver(() => {
    const width = Math.floor(place.clientWidth);
    if (made.plot && width > 0 && made.plot.width !== width) made.plot.setSize({width, height: made.plot.height});
  }).observe(place);
}

function redraw(made) {
  const {place, chart} = made;
  if (made.plot) made.plot.destroy();
  const colours = palette();
  const names = Object.keys(chart.series);
  const lines = new Set(chart.lines || []);
  const data = [chart.x];
  const series = [{label: chart.xLabel || "update", value: (_, x) => shorten(x)}];
  const bands = [];
  let below = null;
  names.forEach((name, number) => {
    let values = chart.series[name];
    const plain = values;
    if (chart.stacked) {
      values = values.map((value, i) => (below ? below[i] : 0) + (value || 0));
      bands.push({series: [data.length, below ? data.length - 1 : -1]});
      below = values;
    }
    const colour = lines.has(name) ? ink("--quiet") : colours[number % colours.length];
    series.push({
      label: name,
      swatch: colour,
      stroke: colour,
      width: lines.has(name) ? 1 : 2,
      dash: lines.has(name) ? [4, 4] : DASHES[Math.floor(number / 2) % DASHES.length],
      fill: chart.stacked ? colour + "88" : undefined,
      spanGaps: true,
      points: {show: !lines.has(name) && (chart.marked || chart.x.length < 25), size: 5, fill: colour},
      value: (_, __, ___, i) => shorten(i === null ? null : plain[i]),
    });
    data.push(values);
  });
  const usable = bands.filter((band) => band.series[1] > 0);
  if (chart.band) {
    const at = data.length;
    for (const [label, values] of [["from", chart.band[0]], ["to", chart.band[1]]]) {
      data.push(values);
      series.push({label, stroke: "transparent", points: {show: false}, spanGaps: true, value: (_, v) => shorten(v)});
    }
    usable.push({series: [at + 1, at], fill: colours[0] + "33"});
  }
  if (chart.held) {
    data.push(chart.held.mean);
    series.push({label: "held-out", swatch: colours[1], stroke: colours[1], paths: () => null, points: {show: true, size: 9, fill: colours[1]}, value: (_, v) => shorten(v)});
  }
  const axis = {
    stroke: ink("--ink"),
    grid: {stroke: ink("--line"), width: 1},
    ticks: {stroke: ink("--line"), width: 1},
  };
  const wholeNumbers = chart.x.every((x) => Number.isInteger(x));
  made.plot = new uPlot(
    {
      width: Math.max(200, Math.floor(place.clientWidth)),
      height: chart.height || 220,
      scales: {y: {range: chart.share ? [0, 1] : undefined}, x: {time: false, range: chart.x.length === 1 ? [chart.x[0] - 1, chart.x[0] + 1] : undefined}},
      axes: [
        {...axis, incrs: wholeNumbers ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5] : undefined, values: (_, ticks) => ticks.map(shorten)},
        {...axis, size: 56, values: (_, ticks) => ticks.map(shorten)},
      ],
      series,
      bands: usable,
      legend: {live: true, markers: {width: 0, fill: (plot, i) => plot.series[i].swatch || "transparent"}},
      hooks: chart.held ? {draw: [(plot) => whiskers(plot, chart.held, colours[1])]} : {},
    },
    data,
    place,
  );
}

// uPlot has no error bars: an upright line through each held-out point.
function whiskers(plot, held, colour) {
  const {ctx} = plot;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 2 * devicePixelRatio;
  held.mean.forEach((value, i) => {
    if (value === null) return;
    const x = plot.valToPos(plot.data[0][i], "x", true);
    ctx.beginPath();
    ctx.moveTo(x, plot.valToPos(held.low[i], "y", true));
    ctx.lineTo(x, plot.valToPos(held.high[i], "y", true));
    ctx.stroke();
  });
  ctx.restore();
}

// The chart's figures for those who cannot see it, or want them exactly.
function figures(chart) {
  const names = Object.keys(chart.series);
  const details = el("details.figures", {}, el("summary", {}, "Figures"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const head = el("tr", {}, el("th", {scope: "col"}, chart.xLabel || "update"), ...names.map((name) => el("th", {scope: "col"}, name)));
    const rows = chart.x.map((x, i) => el("tr", {}, el("th", {scope: "row"}, shorten(x)), ...names.map((name) => el("td.number", {}, shorten(chart.series[name][i])))));
    details.append(el("div.scroll", {}, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))));
  });
  return details;
}

darkness.addEventListener("change", () => {
  for (const made of charts) if (made.place.isConnected) redraw(made);
});
