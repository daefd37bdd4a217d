// The page: shows the events of the stream.

const ANOMALIES_SHOWN = 16;
const ANOMALIES_KEPT = 2_000;
const ANOMALIES_ASKED = 1_000;
/** The fleet has one point per second; after this gap points are missing. */
const GAP_S = 5;
/** Readings of a device in its charts. */
const READINGS_KEPT = 2_000;
const SAMPLES_SHOWN = 16;
const ANNOUNCE_MS = 10_000;
/** A device with more series than charts has a list of them. */
const CHARTS_MAX = 8;
/** Charts of such a device before any are chosen. */
const CHARTS_FIRST = 4;
/** Metrics that are shown first. */
const USUAL = ["rps", "cpu"];

let threshold = 2;
/** A score from this value on is an anomaly. */
let scoreThreshold = 2;
let boot = null;
let eventAt = 0;
let device = null;
let anomalies = [];
/** Samples of the device, oldest first, each with its number. */
let samples = [];
let samplesSeen = 0;
let charts = new Map();
/** Series that the address names. */
let chosen = [];
/** Series that the stream was asked for; none: those that the server has room for. */
let asked = [];
/** More series than charts: there is a list. */
let isWide = false;
/** The next event begins the charts anew. */
let isRenewed = false;
let ribbon = null;
/** Anomalies per second, which the ribbon shows. */
const rates = { t: [], n: [] };
let counted = null;

// ---- fleet

function figure(id, text, isBad = false) {
  const node = byId(id);
  write(node, text);
  node.classList.toggle("zero", text === "0" || text === NONE);
  node.classList.toggle("bad", isBad);
}

/** Since when the page sees that samples are refused or dropped; null while none are. */
let badSince = null;

function showLoad(load) {
  const isFirst = watched === null;
  watched = load.watched;
  if (isFirst) showIncidents();
  figure("accepted", count(load.accepted));
  figure("rejected", count(load.rejected), load.rejected > 0);
  figure("dropped", count(load.dropped), load.dropped > 0);
  for (const what of ["answer", "verdict"]) {
    for (const rank of ["p50", "p99", "p999"]) figure(`${what}-${rank}`, milliseconds(load[what]?.[rank]));
  }
  figure("devices-count", count(load.devices));
  figure("samples-count", count(load.samples));
  figure("anomalies-count", count(load.anomaliesTotal));
  write(byId("queue"), `${count(load.queue)} of ${count(load.queueMax)} waiting`);
  const bad = load.rejected > 0 || load.dropped > 0;
  badSince = bad ? (badSince ?? nowByServer()) : null;
  const lost = `, ${count(load.rejected)} rejected, ${count(load.dropped)} dropped`;
  const faults = bad ? `${lost} since ${since(badSince, nowByServer())}` : "";
  const p99 = load.answer ? `, responses within ${milliseconds(load.answer.p99)} ms` : "";
  write(byId("health-line"), `Server: ${count(load.accepted)} samples per second${faults}${p99}`);
  byId("health").classList.toggle("bad", bad);
  const share = load.queueMax ? (100 * load.queue) / load.queueMax : 0;
  byId("queue-bar").setAttribute("width", share.toFixed(2));
  byId("queue-bar").classList.toggle("bad", share > 50);
  isEmpty = load.samples === 0 && load.accepted === 0;
  showParts();
}

/** Whether the server has had no samples; null before its first event. */
let isEmpty = null;

/** Shows the part that the address names. The fleet waits for its first event and its incidents: nothing moves then. */
function showParts() {
  const isOfFleet = device === null && incident === null;
  const wasHidden = byId("fleet").hidden;
  byId("empty").hidden = !isOfFleet || isEmpty !== true;
  byId("fleet").hidden = !isOfFleet || isEmpty !== false || !areIncidentsAsked;
  byId("incident").hidden = incident === null;
  byId("device").hidden = device === null;
  if (byId("fleet").hidden || !wasHidden) return;
  ribbon ??= new Ribbon(byId("ribbon"), byId("ribbon-readout"));
  [...charts.values(), ribbon].forEach((chart) => chart.fit());
}

function chartOf(metric, parent, lineName) {
  let chart = charts.get(metric);
  if (!chart) {
    const dots = () =>
      anomalies
        .filter((anomaly) => anomaly.metric === metric)
        .map((anomaly) => ({ ...anomaly, at: anomaly.arrivedAt }));
    chart = new BandChart(parent, metric, lineName, dots);
    charts.set(metric, chart);
    // A single chart has the width of two.
    charts.forEach((other) => other.fit());
  }
  return chart;
}

function showFleet(at, fleet, leftOut = 0) {
  isWide = leftOut > 0;
  showSeriesCard(isWide);
  if (isWide && !asked.length && chosen.length) return askFor(chosen);
  for (const [metric, { mean, stdDev, last }] of Object.entries(fleet)) {
    const chart = chartOf(metric, byId("charts"), "mean");
    if (last < 0) chart.isSigned = true;
    append(chart, at, mean, stdDev);
    trim(chart.points);
  }
}

function append(chart, at, mean, stdDev) {
  const { t, line, low, high } = chart.points;
  if (t.length && at <= t.at(-1)) return;
  if (t.length && at - t.at(-1) > GAP_S) {
    // Points are missing: the line is interrupted.
    t.push(t.at(-1) + 0.001);
    [line, low, high].forEach((column) => column.push(null));
  }
  const isKnown = isNumber(mean);
  chart.push(at, mean, isKnown ? mean - threshold * stdDev : null, isKnown ? mean + threshold * stdDev : null);
}

function showHistory(history) {
  for (const [metric, { mean, stdDev }] of Object.entries(history.metrics)) {
    const isShown = asked.length ? asked.includes(metric) : !chosen.length || charts.has(metric);
    if (!isShown) continue;
    const chart = chartOf(metric, byId("charts"), "mean");
    history.at.forEach((at, place) => append(chart, at, mean[place], stdDev[place]));
  }
  const { t, n } = rates;
  const last = t.at(-1) ?? 0;
  history.at.forEach((at, place) => {
    // The smallest distance of two points is the width of a bar.
    if (at < last + 0.5) return;
    t.push(at);
    n.push(history.anomalies[place]);
  });
}

/** One bar per second, from the total of the server. */
function showRate(at, total) {
  const { t, n } = rates;
  if (counted === null || total < counted.total) counted = { at, total };
  if (at - counted.at < 0.95) return;
  t.push(at);
  n.push(total - counted.total);
  counted = { at, total };
  trim(rates);
}

// ---- one device

function showDevice(data) {
  const { metrics } = data.device;
  const total = Object.keys(metrics).length + (data.metricsLeftOut ?? 0);
  isWide = total > CHARTS_MAX;
  showSeriesCard(isWide);
  if (isWide && !asked.length) return chosen.length ? askFor(chosen) : askForFirst();
  const order = asked.length ? asked : USUAL;
  const place = (metric) => (order.indexOf(metric) + order.length + 1) % (order.length + 1);
  const names = Object.keys(metrics).sort((one, other) => place(one) - place(other));
  // In this order, whichever a sample has first.
  for (const metric of names) chartOf(metric, byId("device-charts"), "last");
  // After a long pause the server sends samples again.
  const known = samples.at(-1)?.sample.arrivedAt ?? -Infinity;
  for (const sample of (data.samples ?? []).filter(({ arrivedAt }) => arrivedAt > known)) {
    samples.push({ sample, place: samplesSeen++ });
    for (const metric of names) {
      if (!isNumber(sample[metric])) continue;
      const chart = chartOf(metric, byId("device-charts"), "last");
      const { points } = chart;
      const { t, line } = points;
      const window = line.slice(-windowSize);
      const mean = window.reduce((sum, value) => sum + value, 0) / window.length;
      const spread = Math.sqrt(window.reduce((sum, value) => sum + (value - mean) ** 2, 0) / window.length);
      const isKnown = window.length >= Math.min(10, windowSize);
      // All samples of a batch have one arrival time.
      const at = Math.max(sample.arrivedAt, t.at(-1) ?? 0);
      chart.push(at, sample[metric], isKnown ? mean - threshold * spread : null, isKnown ? mean + threshold * spread : null);
      if (t.length > READINGS_KEPT) Object.values(points).forEach((column) => column.shift());
      trim(points);
    }
  }
  samples.splice(0, samples.length - SAMPLES_SHOWN);
  showSamples(samples.toReversed(), names);
  for (const metric of names) {
    const figures = metrics[metric];
    const { statsNode } = chartOf(metric, byId("device-charts"), "last");
    const shown = [
      ["z", deviations(figures.zScore)],
      ...Object.entries(figures.detectors)
        .filter(([detector]) => detector !== "zscore")
        .map(([detector, { score }]) => [detector, deviations(score)]),
      ["mean", brief(figures.mean)],
      ["std dev", brief(figures.stdDev)],
      ["p95", brief(figures.p95)],
      ["flagged", count(figures.anomalyCount)],
    ];
    rows(
      statsNode,
      shown,
      ([name]) => name,
      () => {
        const pair = document.createElement("div");
        pair.append(document.createElement("dt"), document.createElement("dd"));
        return pair;
      },
      (pair, [name, text]) => {
        write(pair.firstElementChild, name);
        write(pair.lastElementChild, text);
      },
    );
  }
  const last = [...charts.values()].map((chart) => chart.points.t.at(-1) ?? 0);
  const lastArrival = Math.max(...last);
  const few = total === 1 ? "one metric" : `${total} metrics`;
  const line = total
    ? `${isWide ? `${names.length} of ${count(total)} series` : few}, windows of ${windowSize} values` +
      (lastArrival > 0 ? `, last sample ${data.at - lastArrival < 1.5 ? "now" : `${duration(data.at - lastArrival)} ago`}` : "")
    : "No samples so far; the first one appears here.";
  write(byId("device-line"), line);
}

let windowSize = 50;

// ---- series

function openStream() {
  const fields = [["device", device], ...asked.map((name) => ["series", name])];
  const query = new URLSearchParams(fields.filter(([, value]) => value !== null));
  stream.open(fields.length > 1 || device !== null ? `/events?${query}` : "/events");
}

// ---- anomalies

let announced = 0;
let unannounced = 0;

function takeAnomalies(oldestFirst, isNews) {
  const known = new Map(anomalies.map((anomaly, place) => [anomaly.key, place]));
  for (const anomaly of oldestFirst) {
    anomaly.key = `${anomaly.replica ?? boot}-${anomaly.serial}`;
    const place = known.get(anomaly.key);
    // Ordered by first event: the value with the largest score may arrive later.
    anomaly.firstSeen = anomalies[place]?.firstSeen ?? anomaly.arrivedAt;
    if (place === undefined) {
      anomalies.push(anomaly);
      if (isNews) unannounced += 1;
    } else if (isNews) anomalies[place] = anomaly;
  }
  anomalies.sort((one, other) => one.firstSeen - other.firstSeen);
  anomalies.splice(0, anomalies.length - ANOMALIES_KEPT);
  if (unannounced && Date.now() - announced > ANNOUNCE_MS) {
    announced = Date.now();
    const latest = anomalies.at(-1);
    write(byId("announce"), `${unannounced} new anomalies, the latest of ${latest.device ?? "the fleet"}, ${latest.metric}`);
    unannounced = 0;
  }
}

/** Fetches older anomalies: the stream begins with the latest. */
async function fetchAnomalies() {
  const of = device === null ? "" : `&device=${encodeURIComponent(device)}`;
  const before = [boot, device];
  const fetched = await askJson(`/anomalies?limit=${ANOMALIES_ASKED}${of}`);
  if (!fetched || before[0] !== boot || before[1] !== device) return;
  takeAnomalies(fetched.anomalies.reverse(), false);
  dirty = true;
}

const newestFirst = () =>
  anomalies
    .filter((anomaly) => device !== null || isFilteredIn([anomaly.device], [anomaly.metric]))
    .slice(-ANOMALIES_SHOWN)
    .reverse();

function showLatest() {
  const prefix = device === null ? "" : "device-";
  showAnomalies(byId(`${prefix}anomalies`), byId(`no-${prefix}anomalies`), newestFirst(), device === null);
}

// ---- header

function showServer(server) {
  threshold = server.threshold;
  scoreThreshold = server.scoreThreshold;
  document.querySelectorAll(".detector").forEach((node) => write(node, server.detector));
  windowSize = server.window;
  grafanaUrl = server.grafanaUrl;
  write(byId("version"), server.version);
  write(byId("replica"), server.replica);
  byId("replica").title = server.replica;
}

function showStatus(data) {
  skew = data.at - Date.now() / 1000;
  write(byId("uptime"), duration(data.status.uptime));
  serverStart = data.at - data.status.uptime;
  write(byId("redis"), data.status.redis);
  byId("redis").dataset.redis = data.status.redis;
  redis = data.status;
  // The stream may come from a replica of the version before.
  const redisSince = isNumber(redis.redisSince) ? `redis ${redis.redis} since ${since(redis.redisSince, data.at)}` : "";
  byId("redis").title = redisSince;
  write(byId("health-since"), [`up since ${since(serverStart, data.at)}`, ...(redisSince ? [redisSince] : [])].join("; "));
  showTrouble();
  if (data.status.phase === "draining") notice("the server is draining");
}

/** The last state of Redis. */
let redis = null;

/** What makes the page itself doubtful: large, and since when. */
function showTrouble() {
  const now = nowByServer();
  const isDown = byId("live").dataset.state === "lost" && eventAt > 0;
  const isDegraded = redis?.redis === "degraded";
  byId("trouble").hidden = !isDown && !isDegraded;
  if (isDown) {
    write(byId("trouble-what"), "The server does not answer");
    write(byId("trouble-since"), `since ${since(eventAt / 1000 + skew, now)}. What is shown was known then.`);
  } else if (isDegraded) {
    write(byId("trouble-what"), "Redis does not answer");
    write(byId("trouble-since"), `since ${since(redis.redisSince ?? now, now)}. Samples are judged and wait; other replicas are not seen.`);
  }
}

let noticeTimer = 0;

function notice(text, ms = 0) {
  clearTimeout(noticeTimer);
  const node = byId("notice");
  if (node.textContent !== text) {
    const bubble = document.createElement("span");
    bubble.textContent = text;
    node.replaceChildren(...(text ? [bubble] : []));
  }
  if (ms) noticeTimer = setTimeout(() => node.replaceChildren(), ms);
}

/** The age of the data on the page. */
function showAge() {
  const live = byId("live");
  showTrouble();
  if (live.dataset.state !== "live") return;
  const age = (Date.now() - eventAt) / 1000;
  write(byId("live-text"), `live · ${age < 1.5 ? "now" : `${age.toFixed(0)} s ago`}`);
}

function onState(state, why) {
  const live = byId("live");
  if (live.dataset.state === state && state === "live") return;
  const before = live.dataset.state;
  live.dataset.state = state;
  if (state === "live") {
    write(byId("live-text"), "live · now");
    if (before === "lost") notice("reconnected", 3000);
  } else {
    write(byId("live-text"), state === "lost" ? "reconnecting" : state);
    const shown = eventAt ? `showing data from ${time(eventAt / 1000)}; ` : "";
    notice(state === "lost" ? `${why}: ${shown}reconnecting` : "");
  }
  showTrouble();
}

// ---- events

function onEvent(name, data, id) {
  eventAt = Date.now();
  if (isRenewed && name === "hello" && asked.length) renewCharts();
  if (name === "hello") onHello(data, id);
  showStatus(data);
  if (data.anomalies) takeAnomalies(data.anomalies, name === "delta");
  if (data.load) {
    showLoad(data.load);
    showRate(data.at, data.load.anomaliesTotal);
    showWorkers(data.workers);
    if (!byId("fleet").hidden) showFleet(data.at, data.fleet, data.metricsLeftOut);
  }
  if (data.devices) {
    devicesShown = data.devices;
    showDevices(devicesShown);
  }
  if (data.device) showDevice(data);
  if (isWide) showChosen();
  dirty = true;
}

function onHello(data, id) {
  showServer(data.server);
  // The first half of an id identifies the process.
  const [process] = id.split("-");
  if (boot !== null && process !== boot) {
    notice(`the server was restarted ${duration(data.status.uptime)} ago`, 6000);
    counted = null;
  }
  boot = process;
  if (!data.resumed) fetchAnomalies();
  if (data.history && data.load.samples > 0) {
    isEmpty = false;
    showParts();
    showHistory(data.history);
    counted = { at: data.at, total: data.load.anomaliesTotal };
  }
}

/** Paints at most once per frame, and not while the page is hidden. */
let dirty = false;
function paint() {
  requestAnimationFrame(paint);
  if (!dirty) return;
  dirty = false;
  charts.forEach((chart) => chart.show());
  if (device === null) ribbon?.show();
  showLatest();
  if (device !== null) showGrafana(byId("device-grafana"), device, [...charts.keys()][0], ...span());
}

// ---- routes

/** The device and the series of the address. */
function readAddress() {
  const found = { name: null, series: [], id: null, range: {} };
  const fields = new Map();
  try {
    for (const part of location.hash.slice(1).split("&")) {
      const [field, ...values] = part.split("=");
      const value = decodeURIComponent(values.join("="));
      fields.set(field, value);
      if (field === "device" && value) found.name = value;
      if (field === "incident" && /^[0-9A-Z]{26}$/.test(value)) found.id = value;
      if (field === "series" && value) found.series.push(value);
    }
  } catch {
    // An invalid address shows the fleet.
    return { name: null, series: [], id: null, range: {} };
  }
  found.range = rangeOf(fields);
  return found;
}

/** Another address: of the same device, other charts. */
function onAddress() {
  const { name, series, id, range } = readAddress();
  if (name !== device || id !== incident) return route();
  if (range.from) showRange(range);
  if (!series.length || !isWide) return;
  chosen = series;
  askFor(series);
  byId(device === null ? "charts" : "device-charts").scrollIntoView({ block: "nearest" });
}

function route() {
  const { name, series, id, range } = readAddress();
  device = name;
  incident = name === null ? id : null;
  chosen = series;
  asked = [];
  isWide = isRenewed = false;
  charts.forEach((chart) => chart.remove());
  charts = new Map();
  anomalies = [];
  samples = [];
  counted = null;
  rates.t.length = rates.n.length = 0;
  if (ribbon) ribbon.past = null;
  for (const id of ["anomalies", "device-anomalies", "device-samples"]) byId(id).replaceChildren();
  byId("device-incidents").replaceChildren();
  showParts();
  write(byId("device-name"), name ?? "");
  write(byId("device-line"), "");
  document.title = name === null ? "sigmad" : `${name} · sigmad`;
  byId("query").value = "";
  closeFound();
  resetSeries(byId(name === null ? "charts" : "device-charts"));
  byId(name === null ? "charts" : "device-charts").before(byId("range"));
  showPins();
  openStream();
  showRange(range);
  fetchIncidents();
  scrollTo(0, 0);
}

// ---- search

let selected = -1;
let searchTimer = 0;
/** True while the options belong to an earlier input. */
let isStale = false;
/** More than are shown, to rank names that begin with the input first. */
const SEARCHED = 100;
const FOUND_MAX = 8;

function closeFound() {
  byId("found").hidden = true;
  byId("query").setAttribute("aria-expanded", "false");
  byId("query").removeAttribute("aria-activedescendant");
  selected = -1;
}

function select(place) {
  const options = [...byId("found").querySelectorAll("[role=option]")];
  selected = options.length ? (place + options.length) % options.length : -1;
  options.forEach((option, at) => option.setAttribute("aria-selected", String(at === selected)));
  if (selected >= 0) byId("query").setAttribute("aria-activedescendant", options[selected].id);
}

async function find() {
  const text = byId("query").value.trim();
  if (!text) return closeFound();
  const found = await askJson(`/devices?limit=${SEARCHED}&search=${encodeURIComponent(text)}`);
  if (!found || byId("query").value.trim() !== text) return;
  isStale = false;
  const wanted = text.toLowerCase();
  // The exact name, names that begin with it, the others.
  const rank = (name) => Number(name !== text) + Number(!name.toLowerCase().startsWith(wanted));
  const names = found.devices.map((each) => each.device);
  names.sort((one, other) => rank(one) - rank(other) || one.localeCompare(other, "en", { numeric: true }));
  const options = names.slice(0, FOUND_MAX).map((name, at) => {
    const option = document.createElement("li");
    option.id = `found-${at}`;
    option.setAttribute("role", "option");
    option.textContent = name;
    option.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      location.hash = address(name);
    });
    return option;
  });
  if (!options.length) {
    const none = document.createElement("li");
    none.className = "muted";
    none.textContent = "No device name contains this.";
    options.push(none);
  }
  byId("found").replaceChildren(...options);
  byId("found").hidden = false;
  byId("query").setAttribute("aria-expanded", "true");
  select(names.length ? 0 : -1);
}

byId("query").addEventListener("input", () => {
  isStale = true;
  clearTimeout(searchTimer);
  searchTimer = setTimeout(find, 150);
});
byId("query").addEventListener("blur", closeFound);
byId("query").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") select(selected + 1);
  else if (event.key === "ArrowUp") select(selected - 1);
  else if (event.key !== "Escape") return;
  else if (!byId("found").hidden) closeFound();
  else if (byId("query").value) byId("query").value = "";
  else byId("query").blur();
  event.preventDefault();
});
byId("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  clearTimeout(searchTimer);
  if (isStale) await find();
  // No options if the server is unreachable.
  const option = isStale ? null : byId(`found-${selected}`);
  const name = option?.textContent ?? byId("query").value.trim();
  if (name) location.hash = address(name);
  byId("query").blur();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, textarea")) return;
  event.preventDefault();
  byId("query").focus();
});

// ---- buttons

const SCHEMES = { auto: "Auto", light: "Light", dark: "Dark" };
const SCHEME_KEY = "sigmad-scheme";

function setScheme(scheme) {
  document.documentElement.dataset.theme = scheme;
  localStorage.setItem(SCHEME_KEY, scheme);
  write(byId("theme"), SCHEMES[scheme]);
  byId("theme").setAttribute("aria-label", `Colour scheme: ${SCHEMES[scheme]}`);
  readColours();
  charts.forEach((chart) => chart.plot.redraw());
  ribbon?.plot.redraw();
}

byId("theme").addEventListener("click", () => {
  const names = Object.keys(SCHEMES);
  setScheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setScheme(document.documentElement.dataset.theme));

for (const id of ["copy-anomalies", "copy-device-anomalies"]) {
  byId(id).addEventListener("click", () => copy(asJson(newestFirst()), byId(id)));
}
byId("copy-device-link").addEventListener("click", () => {
  const [from, to] = span(charts.values().next().value?.points.t[0]).map(Math.round);
  const link = `${location.href.split("#")[0]}${address(device, ...chosen)}&from=${from}&to=${to}`;
  copy(link, byId("copy-device-link"));
});
byId("copy-device-samples").addEventListener("click", () => {
  const latest = samples.toReversed().map(({ sample }) => sample);
  copy(JSON.stringify(latest, null, 2), byId("copy-device-samples"));
});
byId("copy-curl").addEventListener("click", () => copy(byId("curl").textContent, byId("copy-curl")));
byId("curl").textContent = `curl ${location.origin}/ingest -d '{"device":"edge-17","cpu":60.5,"rps":2000}'`;

// ---- token

/** Where the token that is asked for is kept. */
let askedToken = TOKEN_KEY;

function askForToken(status, key = TOKEN_KEY) {
  askedToken = key;
  const flag = key === TOKEN_KEY ? "--read-token" : "--operator-token";
  write(byId("token-title"), `This server requires its ${flag === "--read-token" ? "read" : "operator"} token`);
  write(byId("token-why"), status === 403 ? "The token is not correct." : `The server was started with ${flag}.`);
  if (!byId("token").open) byId("token").showModal();
}
byId("token").addEventListener("cancel", () => notice("The server requires its token: load the page again to enter it"));
byId("token-form").addEventListener("submit", () => {
  sessionStorage.setItem(askedToken, byId("token-value").value.trim());
  byId("token-value").value = "";
  route();
});

// ---- start

const stream = new Stream({ event: onEvent, state: onState, denied: askForToken });
write(byId("zone"), Intl.DateTimeFormat().resolvedOptions().timeZone);
setScheme(SCHEMES[localStorage.getItem(SCHEME_KEY)] ? localStorage.getItem(SCHEME_KEY) : "auto");
addEventListener("hashchange", onAddress);
new ResizeObserver(() => {
  charts.forEach((chart) => chart.fit());
  if (!byId("fleet").hidden) ribbon?.fit();
}).observe(byId("main"));
setInterval(showAge, 500);
route();
paint();
