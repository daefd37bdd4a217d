// The past of charts: ranges of time, and what the server has recorded of them.

/** Ranges of the keys, in seconds; the first is the stream's. */
const RANGES = [
  [600, "10 min"],
  [3_600, "1 h"],
  [21_600, "6 h"],
  [86_400, "24 h"],
];
/** Points of a chart. */
const POINTS = 720;
/** A narrower part of a chart is not asked for: a point has ten seconds. */
const ZOOM_S_MIN = 20;
/** A range that ends now is asked for this often. */
const PAST_MS = 10_000;

/** What charts show: the last `span` seconds, or from one moment to another. */
let shownRange = { span: RANGES[0][0], from: null, to: null };
let pastTimer = 0;

const isZoomed = () => shownRange.from !== null;
const nowByServer = () => Date.now() / 1000 + skew;
/** The stream has what is shown; of the rest the server has points of ten seconds or more. */
const isOfStream = () => (isZoomed() ? shownRange.from >= nowByServer() - PAST_S : shownRange.span <= PAST_S);

/** The ends of the time axis, for a chart of the stream whose first value is of `first`. */
function span(first) {
  const now = nowByServer();
  if (isZoomed()) return [shownRange.from, shownRange.to];
  if (!isOfStream()) return [now - shownRange.span, now];
  return [Math.min(now - PAST_S_MIN, Math.max(now - PAST_S, first ?? now)), now];
}

function showRange(range) {
  shownRange = { from: null, to: null, span: RANGES[0][0], ...range };
  for (const button of byId("ranges").children) {
    button.setAttribute("aria-pressed", String(!isZoomed() && Number(button.dataset.span) === shownRange.span));
  }
  byId("zoomed").hidden = !isZoomed();
  if (isZoomed()) {
    const now = nowByServer();
    write(byId("zoomed-range"), `${moment(shownRange.from, now)} – ${time(shownRange.to)}`);
  }
  if (isOfStream()) charts.forEach((chart) => (chart.past = null));
  if (ribbon && isOfStream()) ribbon.past = null;
  dirty = true;
  fetchPast();
}

/** Zooms to a part of a chart, and keeps it in the address. */
function zoom(from, to) {
  if (to - from < ZOOM_S_MIN) {
    const middle = (from + to) / 2;
    [from, to] = [middle - ZOOM_S_MIN / 2, middle + ZOOM_S_MIN / 2];
  }
  showRange({ from: Math.round(from), to: Math.round(to) });
  history.replaceState(null, "", hereAddress());
}

function unzoom(seconds) {
  showRange({ span: seconds });
  history.replaceState(null, "", hereAddress());
}

/** The address of what is shown: the device or the incident, its charts, and the range. */
function hereAddress() {
  const base = incident === null ? address(device, ...chosen) : incidentAddress(incident);
  const range = isZoomed() ? `from=${shownRange.from}&to=${shownRange.to}` : "";
  return range && incident === null ? `${base}${base === "#" ? "" : "&"}${range}` : base;
}

/** The path of what is recorded. */
function historyPath({ of, series, from, to, points }) {
  const query = new URLSearchParams({ from: Math.floor(from), to: Math.ceil(to), points });
  if (of !== null) query.set("device", of);
  series.forEach((name) => query.append("series", name));
  return `/history?${query}`;
}

const askHistory = (query) => askJson(historyPath(query));

/** Fetches what the charts show, unless the stream has it; of a range that ends now again and again. */
async function fetchPast() {
  clearTimeout(pastTimer);
  if (isOfStream() || incident !== null || !stream.path) return;
  const of = device;
  const range = shownRange;
  const [from, to] = span();
  const series = [...charts.keys()].slice(0, CHARTS_MAX);
  const found = document.hidden ? null : await askHistory({ of, series, from, to, points: POINTS });
  if (of !== device || range !== shownRange) return;
  if (found) takePast(found);
  clearTimeout(pastTimer);
  const isOver = isZoomed() && shownRange.to < nowByServer() - 20 && found && series.length;
  if (!isOver) pastTimer = setTimeout(fetchPast, found && series.length ? PAST_MS : 1_000);
}

function takePast({ step, at, series, anomalies: flagged }) {
  // A point is shown in the middle of its time.
  const t = at.map((start) => start + step / 2);
  charts.forEach((chart, name) => {
    const { min, mean, max, flags } = series[name] ?? {};
    const none = t.map(() => null);
    chart.past = { t, line: mean ?? none, low: min ?? none, high: max ?? none, flags: flags ?? [] };
  });
  if (ribbon && flagged) ribbon.past = { t: at.map((start) => start + step), n: flagged.map((count) => count / step) };
  dirty = true;
}

/** Reads `from` and `to` of the address. */
function rangeOf(fields) {
  const [from, to] = ["from", "to"].map((name) => Number(fields.get(name) ?? NaN));
  return from > 0 && to > from ? { from, to } : { span: isZoomed() ? RANGES[0][0] : shownRange.span };
}

for (const [seconds, label] of RANGES) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.dataset.span = seconds;
  button.id = `range-${seconds}`;
  button.textContent = label;
  button.addEventListener("click", () => unzoom(seconds));
  byId("ranges").append(button);
}
byId("unzoom").addEventListener("click", () => unzoom(RANGES[0][0]));

// ---- sparklines

const SVG = "http://www.w3.org/2000/svg";
const [SPARK_WIDTH, SPARK_HEIGHT] = [160, 36];
/** The least that the height of a sparkline stands for, as a part of its value. */
const SPARK_RANGE_MIN = 0.25;

function shape(parent, name, attributes) {
  const node = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  parent.append(node);
}

/** Draws a recorded series: its usual range, when it was wrong, and the line. */
function drawSpark(svg, { at, step, values }, { from, to, began, ended, expected }) {
  svg.replaceChildren();
  const known = values.filter(isNumber);
  if (expected) known.push(expected.low, expected.high);
  if (!known.length) return;
  let [low, high] = [Math.min(...known), Math.max(...known)];
  // Without a usual range to compare it with, noise must not look like a change.
  const room = expected ? 0 : Math.max(0, SPARK_RANGE_MIN * Math.abs(high) - (high - low)) / 2;
  [low, high] = [low - room, high + room];
  const x = (moment) => Math.min(SPARK_WIDTH, Math.max(0, (SPARK_WIDTH * (moment - from)) / (to - from)));
  const y = (value) => (high > low ? SPARK_HEIGHT - 3 - ((SPARK_HEIGHT - 6) * (value - low)) / (high - low) : SPARK_HEIGHT / 2);
  shape(svg, "rect", { class: "wrong", x: x(began), y: 0, width: Math.max(1, x(ended ?? to) - x(began)), height: SPARK_HEIGHT });
  if (expected) {
    const height = Math.max(1, y(expected.low) - y(expected.high));
    shape(svg, "rect", { class: "usual", x: 0, y: y(expected.high), width: SPARK_WIDTH, height });
  }
  let path = "";
  let isDown = false;
  values.forEach((value, place) => {
    // The short line makes a dot of a point that stands alone.
    if (isNumber(value)) path += `${isDown ? "L" : "M"}${x(at[place] + step / 2).toFixed(1)} ${y(value).toFixed(1)}h.1`;
    isDown = isNumber(value);
  });
  shape(svg, "path", { d: path });
  shape(svg, "line", { class: "began", x1: x(began), x2: x(began), y1: 0, y2: SPARK_HEIGHT });
}
