// The list of series, where there are more than charts: searched and sorted by the server, a bounded part at a time.

const SERIES_SHOWN = 20;
const SERIES_MS = 2_000;

let seriesTimer = 0;
/** The search that the rows belong to. */
let seriesSearch = "";

function showSeriesCard(isShown) {
  if (byId("series").hidden === !isShown) return;
  byId("series").hidden = !isShown;
  clearTimeout(seriesTimer);
  if (isShown) fetchSeries();
}

/** Empties the list, for another device. */
function resetSeries(charts) {
  showSeriesCard(false);
  byId("series-query").value = seriesSearch = "";
  byId("series-rows").replaceChildren();
  charts.after(byId("series"));
}

/** The path of the series with the highest scores of a device, or of the fleet for null. */
function seriesPath(device, limit, search = "") {
  const query = new URLSearchParams({ limit });
  if (device !== null) query.set("device", device);
  if (search) query.set("search", search);
  return `/analyze?${query}`;
}

async function fetchSeries() {
  clearTimeout(seriesTimer);
  const [of, search] = [device, byId("series-query").value.trim()];
  const isCurrent = () => !byId("series").hidden && of === device && search === byId("series-query").value.trim();
  const found = document.hidden ? null : await askJson(seriesPath(of, SERIES_SHOWN, search));
  // Another search, or another page, has its own request.
  if (!isCurrent()) return;
  if (found) showSeries(found, search);
  clearTimeout(seriesTimer);
  seriesTimer = setTimeout(fetchSeries, SERIES_MS);
}

function showSeries({ metrics, otherMetrics = 0 }, search) {
  // Not in the order of the answer: names that are numbers come first in any object.
  const rank = ([name, figures]) => [name === search ? 1 : 0, figures.score];
  const compare = (one, other) => rank(other)[0] - rank(one)[0] || rank(other)[1] - rank(one)[1];
  const found = Object.entries(metrics).sort(compare);
  const total = found.length + otherMetrics;
  // What has a chart can always be put away.
  for (const name of charts.keys()) {
    const isFound = Object.hasOwn(metrics, name) || !name.toLowerCase().includes(search.toLowerCase());
    if (!isFound) found.push([name, null]);
  }
  const body = byId("series-rows");
  // Rows do not move under the pointer or the keyboard focus, but for another search.
  const isHeld = search === seriesSearch && isRowHeld(body);
  seriesSearch = search;
  byId("series").classList.toggle("held", isHeld);
  const kept = new Map(found);
  const shown = isHeld ? [...body.children].map((row) => [row.dataset.key, kept.get(row.dataset.key)]) : found;
  rows(body, shown, ([name]) => name, makeSeriesRow, fillSeriesRow);
  showChosen();
  byId("no-series").hidden = total > 0;
  const matching = search ? " that match" : "";
  write(byId("series-readout"), `${Math.min(SERIES_SHOWN, total)} of ${count(total)}${matching}`);
}

function makeSeriesRow() {
  const row = template("series-row").cloneNode(true);
  row.querySelector("button").addEventListener("click", () => toggleSeries(row.dataset.key));
  return row;
}

function fillSeriesRow(row, [name, figures]) {
  const button = row.querySelector("button");
  write(button, name);
  button.title = name;
  if (!figures) return;
  const texts = [brief(figures.last), brief(figures.mean), deviations(figures.zScore), deviations(figures.score), count(figures.anomalyCount)];
  texts.forEach((text, at) => write(row.cells[at + 1], text));
  row.classList.toggle("unusual", figures.isAnomaly);
}

/** Marks the rows that have a chart. */
function showChosen() {
  for (const row of byId("series-rows").children) {
    row.querySelector("button").setAttribute("aria-pressed", String(charts.has(row.dataset.key)));
  }
}

/** Charts these series and no others. */
function askFor(series) {
  asked = series.slice(-CHARTS_MAX);
  // The charts stay until the first event, so that the page does not jump.
  isRenewed = true;
  openStream();
}

/** Charts the series with the highest scores. */
async function askForFirst() {
  if (isRenewed) return;
  isRenewed = true;
  const of = device;
  const found = await askJson(seriesPath(of, CHARTS_FIRST));
  if (of !== device) return;
  isRenewed = false;
  const names = Object.keys(found?.metrics ?? {});
  names.sort((one, other) => found.metrics[other].score - found.metrics[one].score);
  // Without an answer the next event asks again.
  if (names.length && !asked.length) askFor(names);
}

/** Adds or removes the chart of a series; the last one stays. */
function toggleSeries(name) {
  const shown = [...charts.keys()];
  const next = charts.has(name) ? shown.filter((other) => other !== name) : [...shown, name].slice(-CHARTS_MAX);
  if (!next.length) return;
  chosen = next;
  history.replaceState(null, "", hereAddress());
  askFor(next);
}

function renewCharts() {
  isRenewed = false;
  charts.forEach((chart) => chart.remove());
  charts = new Map();
  samples = [];
  byId("device-samples").replaceChildren();
}

byId("series-query").addEventListener("input", () => {
  clearTimeout(seriesTimer);
  seriesTimer = setTimeout(fetchSeries, 150);
});
byId("series-query").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !byId("series-query").value) return;
  event.preventDefault();
  byId("series-query").value = "";
  fetchSeries();
});
