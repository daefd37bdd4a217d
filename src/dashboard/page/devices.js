// Filters by site and series, pinned devices, links to Grafana, and the list of all devices.

/** Rows of a page of the list: two answers of the server. */
const ALL_SHOWN = 2_000;
const ALL_ASKED = 1_000;
const PINS_KEY = "sigmad-pins";
/** Pinned devices: the server records a day of as many. */
const PINS_MAX = 8;
/** The server keeps the history of a device that somebody asked for within a day. */
const PINS_MS = 3_600_000;

/** The template of links to Grafana; null without one. */
let grafanaUrl = null;
/** The last rows of the table of devices. */
let devicesShown = [];

// ---- filters

const filterOf = (id) => byId(id).value.trim().toLowerCase();

/** Whether any of the names and any of the series is what the filters ask for. */
function isFilteredIn(names, series) {
  const has = (texts, wanted) => !wanted || texts.some((text) => text?.toLowerCase().includes(wanted));
  return has(names, filterOf("filter-site")) && has(series, filterOf("filter-series"));
}

for (const id of ["filter-site", "filter-series"]) {
  byId(id).addEventListener("input", () => {
    showIncidents();
    showDevices(devicesShown);
    dirty = true;
    clearTimeout(allTimer);
    allTimer = setTimeout(() => fetchAll(null), 300);
  });
}
byId("filters").addEventListener("submit", (event) => event.preventDefault());

// ---- links

/** A link to what is shown, if the server has a template. */
function showGrafana(node, name, series, from, to, id = "") {
  node.hidden = !grafanaUrl;
  if (!grafanaUrl) return;
  const values = { device: name ?? "", series: series ?? "", from: Math.floor(from * 1000), to: Math.ceil(to * 1000), incident: id };
  const href = grafanaUrl.replace(/\{(\w+)\}/g, (_, field) => encodeURIComponent(values[field] ?? ""));
  if (node.href !== href) node.href = href;
}

// ---- pins

function readPins() {
  try {
    const kept = JSON.parse(localStorage.getItem(PINS_KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((name) => typeof name === "string").slice(0, PINS_MAX) : [];
  } catch {
    return [];
  }
}

function showPins() {
  const pins = readPins();
  const isPinned = pins.includes(device);
  byId("pin").setAttribute("aria-pressed", String(isPinned));
  write(byId("pin"), isPinned ? "Pinned" : "Pin");
  byId("pins").hidden = !pins.length;
  const links = pins.map((name) => {
    const anchor = document.createElement("a");
    anchor.href = address(name);
    anchor.textContent = name;
    return anchor;
  });
  byId("pins").replaceChildren("Pinned: ", ...links);
}

byId("pin").addEventListener("click", () => {
  const pins = readPins();
  const next = pins.includes(device) ? pins.filter((name) => name !== device) : [device, ...pins].slice(0, PINS_MAX);
  localStorage.setItem(PINS_KEY, JSON.stringify(next));
  showPins();
  keepPins();
});

/** Lets the server go on recording what is pinned. */
async function keepPins() {
  for (const name of readPins()) {
    const now = nowByServer();
    await askHistory({ of: name, series: [], from: now - 60, to: now, points: 1 });
  }
}
setInterval(() => document.hidden || keepPins(), PINS_MS);

// ---- all devices

let allTimer = 0;
/** Where each page began, up to the one that is shown. */
let allStarts = [null];
let allEnd = null;

/** Shows the page of all devices that begins after the one of that index. */
async function fetchAll(after) {
  if (!byId("all").open) return;
  if (after === null) allStarts = [null];
  const search = byId("filter-site").value.trim();
  let found = [];
  let next = after;
  do {
    const query = new URLSearchParams({ sort: "device", limit: ALL_ASKED });
    if (next !== null) query.set("after", next);
    if (search) query.set("search", search);
    const page = await askJson(`/devices?${query}`);
    if (!page || search !== byId("filter-site").value.trim()) return;
    found = found.concat(page.devices);
    next = page.devices.length === ALL_ASKED ? page.next : null;
  } while (next !== null && found.length < ALL_SHOWN);
  allEnd = next;
  showAll(found);
}

function showAll(found) {
  const now = nowByServer();
  const make = () => template("all-row").cloneNode(true);
  rows(byId("all-rows"), found, (row) => row.device, make, (row, each) => {
    link(row.cells[0], each.device, address(each.device, each.metric));
    write(row.cells[1], each.metric);
    const texts = [brief(each.last), deviations(each.score), count(each.anomalyCount), `${briefDuration(Math.max(0, now - each.lastSeen))} ago`];
    texts.forEach((text, at) => write(row.cells[at + 2], text));
    row.classList.toggle("unusual", each.isAnomaly);
  });
  byId("no-all").hidden = found.length > 0;
  const first = (allStarts.length - 1) * ALL_SHOWN + 1;
  write(byId("all-readout"), found.length ? `${count(first)} to ${count(first + found.length - 1)}, as of ${time(now)}` : "");
  byId("all-before").disabled = allStarts.length < 2;
  byId("all-next").disabled = allEnd === null;
}

byId("all").addEventListener("toggle", () => fetchAll(null));
byId("all-next").addEventListener("click", () => {
  allStarts.push(allEnd);
  fetchAll(allEnd);
});
byId("all-before").addEventListener("click", () => {
  allStarts.pop();
  fetchAll(allStarts.at(-1));
});
