// Tables: rows are kept and updated, to avoid flicker and to keep a selection.

/** More columns would be narrower than their numbers. */
const samplesShown = () => (matchMedia("(max-width: 640px)").matches ? 3 : 5);

/** New rows that are highlighted at a time. */
const NEWS_MAX = 4;

const template = (id) => byId(id).content.firstElementChild;

/** Makes the rows of a table body equal to `items`, by key; `make` creates a row, `fill` updates it. */
function rows(body, items, key, make, fill) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const focused = document.activeElement;
  let place = body.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let row = known.get(name);
    if (row) known.delete(name);
    else {
      row = make();
      row.dataset.key = name;
    }
    fill(row, item);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  known.forEach((row) => row.remove());
  // Moving a row removes the focus in it.
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

/** The address of a device, or of the fleet for null, with charts of these series. */
function address(device, ...series) {
  const parts = [["device", device], ...series.map((name) => ["series", name])];
  return `#${parts.filter(([, name]) => name !== null).map(([field, name]) => `${field}=${encodeURIComponent(name)}`).join("&")}`;
}

function link(cell, text, to) {
  const anchor = cell.querySelector("a");
  write(anchor, text);
  if (anchor.getAttribute("href") !== to) anchor.href = to;
  anchor.title = text;
}

function showWorkers(workers) {
  const make = () => {
    const row = document.createElement("tr");
    for (let at = 0; at < 5; at++) row.append(document.createElement("td"));
    [...row.cells].slice(1).forEach((cell) => (cell.className = "n"));
    return row;
  };
  const items = workers.map((worker, index) => ({ ...worker, index }));
  rows(byId("workers"), items, (worker) => worker.index, make, (row, worker) => {
    const figures = [worker.accepted, worker.requests, worker.connections, worker.queue].map(count);
    [String(worker.index), ...figures].forEach((text, at) => write(row.cells[at], text));
  });
}

/** The line of a sparkline in a box of 100 × 24. */
function sparkPoints(values) {
  const low = Math.min(...values);
  const height = Math.max(...values) - low;
  const step = 100 / Math.max(values.length - 1, 1);
  const y = (value) => (height > 0 ? 22 - (20 * (value - low)) / height : 12);
  return values.map((value, at) => `${(at * step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}

function showDevices(devices) {
  const body = byId("devices");
  const make = () => template("device-row").cloneNode(true);
  const shown = devices.filter((row) => isFilteredIn([row.device], [row.metric]));
  rows(body, shown, (device) => device.device, make, (row, device) => {
    link(row.cells[0], device.device, address(device.device, device.metric));
    write(row.cells[1], device.metric);
    row.cells[1].title = device.metric;
    write(row.cells[2], brief(device.last));
    row.querySelector("polyline").setAttribute("points", sparkPoints(device.spark));
    write(row.cells[4], deviations(device.zScore));
    // The anomaly may be of another metric.
    row.cells[4].classList.toggle("alarm", device.isAnomaly && Math.abs(device.zScore) > threshold);
    write(row.cells[5], deviations(device.peak));
    // Highlights anomalies and scores far past the threshold.
    row.classList.toggle("unusual", device.isAnomaly || device.peak > 2 * scoreThreshold);
  });
}

/** The table body under the mouse; touch has no hover. */
let pointedAt = null;
addEventListener("pointerover", ({ target, pointerType }) => {
  pointedAt = pointerType === "mouse" ? target.closest("tbody") : null;
});
document.documentElement.addEventListener("pointerleave", () => (pointedAt = null));

/** Rows do not move under the pointer or the keyboard focus. Focus after a mouse click does not hold them. */
const isRowHeld = (body) => body.childElementCount > 0 && (pointedAt === body || body.querySelector(":focus-visible") !== null);

/** `withDevice`: the second column is the device and its metric, else the metric alone. */
function showAnomalies(body, none, newestFirst, withDevice) {
  none.hidden = newestFirst.length > 0;
  const isHeld = isRowHeld(body);
  body.closest("section").classList.toggle("held", isHeld);
  if (isHeld) return;
  // The first rows are not highlighted, nor when most rows are new.
  const shown = new Set([...body.children].map((row) => row.dataset.key));
  const news = newestFirst.filter(({ key }) => !shown.has(key)).length;
  const isNews = shown.size > 0 && news <= NEWS_MAX;
  const make = () => {
    const row = template("anomaly-row").cloneNode(true);
    row.classList.toggle("new", isNews);
    return row;
  };
  rows(body, newestFirst, (anomaly) => anomaly.key, make, (row, anomaly) => {
    if (row.anomaly === anomaly) return;
    const isNew = !row.anomaly;
    row.anomaly = anomaly;
    showAnomaly(row, anomaly);
    if (!isNew) return;
    const [anchor, metric] = row.cells[1].firstElementChild.children;
    metric.textContent = metric.title = anomaly.metric;
    if (withDevice && anomaly.device !== null) link(row.cells[1], anomaly.device, address(anomaly.device, anomaly.metric));
    else if (withDevice) anchor.replaceWith("the fleet");
    else if (isWide) {
      link(row.cells[1], anomaly.metric, address(device, anomaly.metric));
      metric.remove();
    } else anchor.remove();
    const button = row.querySelector("button");
    button.addEventListener("click", () => copy(asJson(row.anomaly), button));
  });
}

/** Updates the cells that change until the anomaly ends. */
function showAnomaly(row, { metric, value, mean, stdDev, expected, zScore, score, detector, start, end, isOpen, flags }) {
  const [at, , what, where, strength, lasted] = row.cells;
  write(at, moment(start, nowByServer()));
  at.title = new Date(start * 1000).toISOString();
  write(what, brief(value));
  what.title = `${value}, usual ${reading(mean)} ± ${reading(stdDev)}`;
  // As the band of its chart: not below zero, where no value was.
  const isSigned = value < 0 || charts.get(metric)?.isSigned !== false;
  write(where, range(isSigned ? expected.low : Math.max(0, expected.low), expected.high).join(" – "));
  where.title = `${expected.low} – ${expected.high}`;
  write(strength, deviations(detector === "zscore" ? zScore : score));
  write(lasted, isOpen ? "open" : briefDuration(end - start));
  lasted.title = `${flags} ${flags === 1 ? "value" : "values"} flagged`;
}

/** The columns are metrics of the device, as many as fit. */
function showSamples(newestFirst, metrics) {
  byId("no-device-samples").hidden = newestFirst.length > 0;
  const shown = metrics.slice(0, samplesShown());
  write(byId("device-samples-of"), shown.length < metrics.length ? `${shown.length} of ${metrics.length} series` : "");
  const head = byId("device-metrics");
  while (head.cells.length > 1 + shown.length) head.deleteCell(-1);
  shown.forEach((metric, at) => {
    let cell = head.cells[at + 1];
    if (!cell) {
      cell = document.createElement("th");
      cell.scope = "col";
      cell.className = "n name";
      head.append(cell);
    }
    write(cell, metric);
    cell.title = metric;
  });
  const make = () => document.createElement("tr");
  rows(byId("device-samples"), newestFirst, ({ place }) => place, make, (row, { sample }) => {
    const texts = [time(sample.arrivedAt), ...shown.map((metric) => brief(sample[metric]))];
    while (row.cells.length > texts.length) row.deleteCell(-1);
    texts.forEach((text, at) => {
      const cell = row.cells[at] ?? row.insertCell();
      cell.className = at ? "n" : "at";
      cell.title = sample[shown[at - 1]] ?? "";
      write(cell, text);
    });
    row.cells[0].title = new Date(sample.arrivedAt * 1000).toISOString();
  });
}

/** As in the response of `/anomalies`. */
function asJson(value) {
  return JSON.stringify(value, (name, field) => (name === "key" || name === "firstSeen" ? undefined : field), 2);
}
