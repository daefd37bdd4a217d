// Charts: values, their usual range, and anomalies.

/** The longest and the shortest time span of a chart. */
const PAST_S = 600;
const PAST_S_MIN = 30;

/** Colours of the style sheet for the canvas; they follow the colour scheme. */
let colours = {};
function readColours() {
  const style = document.createElement("i");
  document.body.append(style);
  for (const name of ["text", "muted", "line", "accent", "band", "alarm", "card"]) {
    style.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(style).color;
  }
  style.remove();
}

const font = () => `12px ${getComputedStyle(document.documentElement).fontFamily}`;

/** The server's clock minus the browser's: the right edge of a chart is now, by the server's clock. */
let skew = 0;

const axis = (options) => ({
  stroke: () => colours.muted,
  grid: { stroke: () => colours.line, width: 1 },
  ticks: { show: false },
  font: font(),
  ...options,
});

const timeAxis = () =>
  axis({ space: 70, size: 26, gap: 6, grid: { show: false }, values: timeLabels });

/** Equal for all charts, except for longer labels. */
const axisWidth = (_, labels) => Math.max(52, 14 + 7.5 * Math.max(...(labels ?? [""]).map((label) => label.length)));

/** Labels that the edges would cut are left out. */
function timeLabels(plot, splits) {
  const { min, max } = plot.scales.x;
  const edge = (30 * (max - min)) / Math.max(plot.bbox.width / devicePixelRatio, 1);
  // Rounded: splits may be off by a rounding error.
  return splits.map((at) => (at < min + edge / 3 || at > max - edge ? "" : time(Math.round(at))));
}

/** A part of the time axis that is dragged over is zoomed to. */
const cursor = { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 6 }, sync: { key: "sigmad", filters: { pub: (type) => /^mouse(move|leave)$/.test(type) } } };
/** When a chart was last dragged over: the click that ends it opens nothing. */
let draggedAt = 0;

function onSelect(plot) {
  const { left, width } = plot.select;
  if (width < 6) return;
  draggedAt = Date.now();
  const [from, to] = [left, left + width].map((at) => plot.posToVal(at, "x"));
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  zoom(from, to);
}

/** Pixels around a dot in which it is pointed at. */
const DOT_REACH = 10;

/** The usual units, by the name of a series. */
function unitOf(series) {
  const name = series.split("{")[0];
  if (name === "rps") return "requests per second";
  if (name === "cpu" || /(percent|pct)$/.test(name)) return "%";
  const found = /_(bytes|seconds|milliseconds|ms|celsius|volts|amperes|watts)(_total)?$/.exec(name);
  if (!found) return "";
  const unit = found[1] === "milliseconds" ? "ms" : found[1];
  return found[2] ? `${unit} per second` : unit;
}

/** Mean or value, its band, and anomalies as dots. */
class BandChart {
  /** `points`: {t, line, low, high}; `dots()`: [{at, value, device, metric}], oldest first. */
  constructor(parent, title, lineName, dots) {
    this.node = byId("chart-template").content.firstElementChild.cloneNode(true);
    this.plotNode = this.node.querySelector(".plot");
    this.readoutNode = this.node.querySelector(".readout");
    this.statsNode = this.node.querySelector(".stats");
    const heading = this.node.querySelector("h2");
    heading.textContent = heading.title = title;
    this.title = title;
    this.lineName = lineName;
    this.dots = dots;
    this.points = { t: [], line: [], low: [], high: [] };
    /** What the server has recorded, for a range that the stream does not have. */
    this.past = null;
    /** A value below zero was seen: only then the band may be below it. */
    this.isSigned = false;
    this.legendNode = this.node.querySelector(".legend");
    parent.append(this.node);
    this.plot = new uPlot(
      {
        width: this.plotNode.clientWidth || 300,
        height: this.plotNode.clientHeight,
        padding: [8, 6, 0, 0],
        legend: { show: false },
        cursor,
        scales: { x: { time: true, range: () => span(this.points.t[0]) }, y: { range: () => this.range() } },
        select: { show: true },
        axes: [timeAxis(), axis({ size: axisWidth, space: 30, gap: 8, values: (_, splits, axisAt, space, step) => ticks(splits, step) })],
        series: [
          {},
          { stroke: "transparent", points: { show: false } },
          { stroke: "transparent", points: { show: false } },
          { stroke: () => colours.accent, width: 1.75, points: { show: false } },
        ],
        bands: [{ series: [1, 2], fill: () => colours.band }],
        hooks: { draw: [() => this.drawDots()], setCursor: [() => this.showReadout()], setSelect: [onSelect] },
      },
      this.data(),
      this.plotNode,
    );
    this.plot.over.addEventListener("click", () => {
      const dot = Date.now() - draggedAt < 300 ? null : this.dotAtCursor();
      if (dot && dot.device !== null && dot.device !== device) location.hash = address(dot.device, dot.metric);
    });
    this.plot.over.addEventListener("dblclick", () => isZoomed() && unzoom(RANGES[0][0]));
    this.showLegend();
  }

  shown() {
    return this.past ?? this.points;
  }

  data() {
    const { t, line, low, high } = this.shown();
    return [t, high, low, line];
  }

  /** Adds a point; its band is not below zero unless a value was. */
  push(at, value, low, high) {
    if (value < 0) this.isSigned = true;
    const { points } = this;
    points.t.push(at);
    points.line.push(value);
    points.low.push(isNumber(low) && !this.isSigned ? Math.max(0, low) : low);
    points.high.push(high);
  }

  showLegend() {
    const band = this.past ? "smallest to largest value" : this.lineName === "mean" ? `mean ± ${threshold}σ` : `usual: ± ${threshold}σ`;
    const line = this.past ? "mean" : this.lineName === "mean" ? "mean of the window" : "value";
    const unit = unitOf(this.title);
    rows(
      this.legendNode,
      [["line", unit ? `${line}, ${unit}` : line], ["band", band], ["dot", this.past ? "anomalies" : "anomaly"]],
      ([kind]) => kind,
      () => document.createElement("span"),
      (node, [kind, text]) => {
        node.className = `key-${kind}`;
        write(node, text);
      },
    );
  }

  /** The dot that the cursor points at; null for none. */
  dotAtCursor() {
    const { left, top } = this.plot?.cursor ?? {};
    if (!(left >= 0)) return null;
    let found = null;
    let least = DOT_REACH;
    for (const dot of this.dots()) {
      const away = Math.hypot(this.plot.valToPos(dot.at, "x") - left, this.dotTop(dot.value) - top);
      if (away <= least) [found, least] = [dot, away];
    }
    return found;
  }

  /** Where a dot is drawn: at the edge, if its value is outside the chart. */
  dotTop(value) {
    const height = this.plot.over.clientHeight;
    return Math.min(height, Math.max(0, this.plot.valToPos(value, "y")));
  }

  /** The band, and dots near it: one extreme value must not flatten the rest. */
  range() {
    let low = Infinity;
    let high = -Infinity;
    const take = (value) => {
      if (value === null || value === undefined) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    };
    const shown = this.shown();
    for (const column of ["low", "high", "line"]) shown[column].forEach(take);
    if (low > high) return [0, 1];
    const room = Math.max(high - low, Math.abs(high) * 1e-3, 1e-9) * 2;
    const [bottom, top] = [low - room, high + room];
    const from = shown.t[0] ?? 0;
    for (const { at, value } of this.dots()) {
      if (at >= from) take(Math.min(top, Math.max(bottom, value)));
    }
    const pad = Math.max((high - low) * 0.08, Math.abs(high) * 1e-3, 1e-9);
    // Without negative values the axis begins at zero, with room for a dot.
    return [low >= 0 ? Math.max(-0.6 * pad, low - pad) : low - pad, high + pad];
  }

  drawDots() {
    const { ctx, bbox } = this.plot;
    const { min, max } = this.plot.scales.x;
    const radius = 3.25 * devicePixelRatio;
    ctx.save();
    ctx.fillStyle = colours.alarm;
    ctx.strokeStyle = colours.card;
    ctx.lineWidth = devicePixelRatio;
    for (const { at, value } of this.dots()) {
      if (at < min || at > max) continue;
      const x = this.plot.valToPos(at, "x", true);
      const y = this.plot.valToPos(value, "y", true);
      ctx.beginPath();
      if (y < bbox.top || y > bbox.top + bbox.height) {
        // Outside the chart: an arrow points to the value.
        const up = y < bbox.top;
        const tip = up ? bbox.top : bbox.top + bbox.height;
        const foot = tip + (up ? 2 : -2) * radius;
        ctx.moveTo(x, tip);
        ctx.lineTo(x - radius, foot);
        ctx.lineTo(x + radius, foot);
        ctx.closePath();
      } else {
        ctx.arc(x, y, radius, 0, 2 * Math.PI);
      }
      ctx.fill();
      ctx.stroke();
    }
    // Of the past the server knows how many values were flagged, not which.
    const { t, flags } = this.past ?? { t: [] };
    t.forEach((at, place) => {
      if (flags[place] > 0 && at >= min && at <= max) ctx.fillRect(this.plot.valToPos(at, "x", true) - radius / 2, bbox.top + bbox.height - 2 * radius, radius, 2 * radius);
    });
    ctx.restore();
  }

  /** Shows the values under the cursor, or the latest. */
  showReadout() {
    const dot = this.plot ? this.dotAtCursor() : null;
    this.plotNode.classList.toggle("opens", dot !== null && dot.device !== null && dot.device !== device);
    if (dot) {
      const name = document.createElement("b");
      name.textContent = dot.device ?? "the fleet";
      return this.readoutNode.replaceChildren(`${time(dot.at)}  `, name, ` ${dot.metric} ${reading(dot.value)}`);
    }
    const { t, line, low, high } = this.shown();
    const at = this.plot?.cursor.idx ?? null;
    const last = line.findLastIndex(isNumber);
    const place = at ?? last;
    const value = line[place];
    if (place < 0 || !isNumber(value)) return this.readoutNode.replaceChildren();
    const bold = document.createElement("b");
    bold.textContent = reading(value);
    const usual = !isNumber(high[place]) ? "" : this.past ? `, ${range(low[place], high[place]).join(" to ")}` : this.usual(low[place], high[place]);
    const when = at === null ? "" : `${time(t[place])}  `;
    this.readoutNode.replaceChildren(`${when}${this.past ? "mean" : this.lineName} `, bold, usual);
  }

  /** The band as text: the spread of a mean, or the usual range of a value. */
  usual(low, high) {
    if (this.lineName === "mean") return `, usual ${range(low, high).join(" to ")} (± ${threshold}σ)`;
    return `, usual ${range(low, high).join(" to ")}`;
  }

  show() {
    this.plot.setData(this.data());
    this.showReadout();
    this.showLegend();
    const { line } = this.shown();
    const place = line.findLastIndex(isNumber);
    const label = place < 0 ? "no values" : `${this.lineName} ${reading(line[place])}`;
    this.plotNode.setAttribute("aria-label", `${this.title}: ${label}, ${this.dots().length} anomalies shown`);
  }

  fit() {
    this.plot.setSize({ width: this.plotNode.clientWidth, height: this.plotNode.clientHeight });
  }

  remove() {
    this.plot.destroy();
    this.node.remove();
  }
}

/** The next of 5, 10, 20, 50, 100, … */
function roundAbove(value) {
  const size = 10 ** Math.floor(Math.log10(Math.max(value, 5)));
  return size * [1, 2, 5, 10].find((step) => step * size >= Math.max(value, 5));
}

/** Anomalies per second, as bars. */
class Ribbon {
  constructor(plotNode, readoutNode) {
    this.plotNode = plotNode;
    this.readoutNode = readoutNode;
    this.points = rates;
    this.past = null;
    this.plot = new uPlot(
      {
        width: plotNode.clientWidth || 300,
        height: plotNode.clientHeight,
        padding: [8, 6, 0, 0],
        legend: { show: false },
        cursor,
        scales: {
          x: { time: true, range: () => span(this.points.t[0]) },
          // Room above the highest bar, where the top label would be cut.
          y: { range: (_, low, high) => [0, 1.1 * roundAbove(high ?? 0)] },
        },
        axes: [timeAxis(), axis({ size: 52, gap: 8, splits: (plot) => [0, plot.scales.y.max / 1.1], values: (_, splits) => splits.map(count) })],
        series: [
          {},
          {
            fill: () => colours.alarm,
            width: 0,
            points: { show: false },
            // A bar covers the second before its time, so that the newest is not cut.
            paths: uPlot.paths.bars({ size: [0.8, 8, 1.5], align: -1 }),
          },
        ],
        hooks: { setCursor: [() => this.showReadout()], setSelect: [onSelect] },
      },
      [[], []],
      plotNode,
    );
  }

  showReadout() {
    const at = this.plot?.cursor.idx ?? null;
    const { t, n } = this.past ?? this.points;
    if (at !== null && t[at]) return write(this.readoutNode, `${time(t[at])}  ${count(n[at])}`);
    if (this.past) return write(this.readoutNode, "");
    const from = (t.at(-1) ?? 0) - 60;
    const lastMinute = n.reduce((sum, value, place) => (t[place] > from ? sum + value : sum), 0);
    write(this.readoutNode, t.length ? `${count(lastMinute)} in the last minute` : "");
  }

  show() {
    const { t, n } = this.past ?? this.points;
    this.plot.setData([t, n]);
    this.showReadout();
  }

  fit() {
    this.plot.setSize({ width: this.plotNode.clientWidth, height: this.plotNode.clientHeight });
  }
}

/** Removes points that have left the chart. */
function trim(points) {
  const { t } = points;
  const from = t.at(-1) - PAST_S;
  const gone = t.findIndex((at) => at >= from);
  if (gone > 60) Object.values(points).forEach((column) => column.splice(0, gone));
}
