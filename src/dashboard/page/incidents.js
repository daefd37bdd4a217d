// Incidents: what is wrong, above the fleet, and one of them with its members.

/** A page asks this often, while somebody looks at it. */
const INCIDENTS_MS = 3_000;
const INCIDENTS_ASKED = 200;
const RESOLVED_SHOWN = 10;
/** Members in the table; the JSON has those that the server keeps. */
const MEMBERS_SHOWN = 100;
const OPERATOR_KEY = "sigmad-operator-token";
const SILENCE_S = 3_600;
const SEVERITIES = ["critical", "warning"];
/** Open incidents with a sparkline, and members with a timeline: the server records as many. */
const SPARKS_SHOWN = 8;
const MEMBER_SPARKS = 12;
const SPARK_MS = 20_000;
/** Points of a sparkline. */
const SPARK_POINTS = 80;
/** A sparkline begins this long before its incident, or as long as that has lasted; less after the server's start. */
const SPARK_BEFORE_S = 300;
const SPARK_START_S = 20;
/** Incidents from which on they can be filtered. */
const FILTERED_FROM = 2;

/** The page keeps the recorded parts of as many sparklines. */
const SPARKS_KEPT = 64;
/** The list of silences is asked for this often, and after each change. */
const SILENCES_MS = 15_000;

/** The incidents of the last answer; null before the first. */
let incidentList = null;
let incidentListAt = 0;
/** Since when the replica that answered does not hear of the others; null while it does. */
let aloneSince = null;
/** The first request was answered, or failed. */
let areIncidentsAsked = false;
let incidentTimer = 0;
/** The id of the incident that is shown; null for none. */
let incident = null;
let incidentShown = null;
/** Ids that were open at the last answer; null before the first. */
let openBefore = null;
/** How many series are judged for incidents; null before the first answer. */
let watched = null;
/** When the server began, by its clock. */
let serverStart = 0;

const hasSeries = ({ kind }) => kind !== "reception";
const isWrong = ({ state }) => state === "open" || state === "acknowledged";
const incidentAddress = (id) => `#incident=${id}`;
const severityRank = ({ severity }) => SEVERITIES.indexOf(severity);

/** Asks for the incidents, and for the one that is shown, again and again. */
async function fetchIncidents() {
  clearTimeout(incidentTimer);
  const of = incident;
  if (!document.hidden && stream.path) {
    const path = of === null ? `/incidents?limit=${INCIDENTS_ASKED}` : `/incidents/${of}`;
    const answer = await ask(path).catch(() => null);
    const found = answer?.ok ? await answer.json().catch(() => null) : null;
    areIncidentsAsked = true;
    if (of !== incident) return;
    if (found && of === null) takeIncidents(found);
    else if (found) showIncident(found);
    else if (of !== null && answer?.status === 404) noIncident();
    else if (of === null) showIncidents();
    showParts();
    fetchSilences();
  }
  clearTimeout(incidentTimer);
  incidentTimer = setTimeout(fetchIncidents, INCIDENTS_MS);
}

function takeIncidents({ incidents: found, degradedSince = null }) {
  incidentList = found;
  incidentListAt = Date.now();
  aloneSince = degradedSince;
  const open = new Set(found.filter(isWrong).map(({ id }) => id));
  const news = found.filter(({ id }) => open.has(id) && openBefore && !openBefore.has(id));
  if (news.length) write(byId("announce"), `${news.length} new: ${news[0].title}`);
  openBefore = open;
  showIncidents();
}

function showIncidents() {
  const section = byId("incidents");
  if (incidentList === null) return write(byId("incidents-title"), "Looking for incidents");
  const all = incidentList.filter(isWrong);
  const isSearched = filterOf("filter-site") || filterOf("filter-series");
  byId("filters").hidden = all.length < FILTERED_FROM && !isSearched;
  const open = isSearched ? all.filter(isIncidentShown) : all;
  write(byId("filtered"), open.length < all.length ? `${open.length} of ${all.length} shown` : "");
  open.sort((one, other) => severityRank(one) - severityRank(other) || one.startedAt - other.startedAt);
  const ended = incidentList.filter(({ state, mergedInto }) => state === "resolved" && !mergedInto);
  const silenced = incidentList.filter(({ state }) => state === "silenced");
  const now = nowByServer();
  const isStale = Date.now() - incidentListAt > 4 * INCIDENTS_MS;
  // While no series is judged, silence says nothing.
  const isLearning = !watched?.judged;
  section.dataset.state = isStale ? "stale" : all.length ? worst(all) : isLearning ? "learning" : "well";
  if (all.length) {
    write(byId("incidents-title"), all.length === 1 ? "1 open incident" : `${all.length} open incidents`);
    write(byId("incidents-since"), `the first since ${since(Math.min(...all.map(({ startedAt }) => startedAt)), now)}`);
  } else {
    const last = Math.max(0, ...ended.map(({ resolvedAt }) => resolvedAt));
    const well = isLearning ? "No open incident" : `All well for ${duration(now - Math.max(last, serverStart))}`;
    write(byId("incidents-title"), watched ? well : "Looking for incidents");
    const past = last > 0 ? `the last incident ended at ${moment(last, now)}` : `none since the start at ${moment(serverStart, now)}`;
    write(byId("incidents-since"), watched ? [...unwatched(), past].join("; ") : "");
  }
  write(byId("incidents-alone"), aloneSince === null ? "" : `Other replicas are not heard since ${since(aloneSince, now)}: this is what this one knows.`);
  if (isStale) write(byId("incidents-since"), `as of ${time(incidentListAt / 1000 + skew)}; the server does not answer`);
  if (device === null && incident === null) document.title = all.length ? `(${all.length}) sigmad` : "sigmad";
  incidentRows(byId("open-incidents"), open, now);
  fetchSparks(open.filter(hasSeries).slice(0, SPARKS_SHOWN).map((one) => [one.id, sparkRange(one)]), showIncidents);
  incidentRows(byId("past-rows"), [...silenced, ...ended.slice(0, RESOLVED_SHOWN)], now);
  byId("past").hidden = !silenced.length && !ended.length;
  const silent = silenced.length ? `${silenced.length} silenced, ` : "";
  write(byId("past-title"), `${silent}${ended.length === 1 ? "1 resolved" : `${ended.length} resolved`}`);
  showDeviceIncidents(all, now);
}

/** On the page of a device: what is wrong with it. */
function showDeviceIncidents(open, now) {
  const of = device === null ? [] : open.filter(({ suspect, members }) => [suspect, ...(members ?? [])].some((one) => one.device === device));
  const make = () => template("device-incident").cloneNode(true);
  rows(byId("device-incidents"), of, ({ id }) => id, make, (row, one) => {
    row.dataset.severity = one.severity;
    const [severity, anchor, when] = row.children;
    write(severity, one.severity);
    write(anchor, one.title);
    anchor.href = incidentAddress(one.id);
    write(when, `since ${since(one.startedAt, now)}`);
  });
}

const worst = (incidents) => SEVERITIES.find((one) => incidents.some(({ severity }) => severity === one));

/** The filters look at the title, too: it names the site and the first devices. */
function isIncidentShown({ title, site, suspect, members = [] }) {
  const all = [suspect, ...members];
  return isFilteredIn([title, site, ...all.map((one) => one.device)], [...all.map((one) => one.series), title]);
}

/** Recorded parts of sparklines, by the name of what they show: {askedAt, found}. */
const sparks = new Map();

/** The sparkline of a member, from what was fetched; nothing before. */
function showSpark(svg, key, range) {
  const { found } = sparks.get(key) ?? {};
  if (!found) return;
  const [name] = range.series === null ? Object.keys(found.series).sort((one, other) => USUAL.indexOf(other) - USUAL.indexOf(one)) : [range.series];
  const values = found.series[name]?.mean;
  if (values) drawSpark(svg, { ...found, values }, range);
}

/** Fetches one sparkline after another, each of them rarely, and shows them. `wanted`: [key, range]. */
const fetchSparks = single(async (wanted, show) => {
  const [ofDevice, ofIncident] = [device, incident];
  for (const [key, { device: of, series, from, to }] of wanted) {
    const known = sparks.get(key);
    if (known && Date.now() - known.askedAt < SPARK_MS) continue;
    sparks.delete(key);
    sparks.set(key, { ...known, askedAt: Date.now() });
    const found = await askHistory({ of, series: series === null ? [] : [series], from, to, points: SPARK_POINTS });
    if (found) sparks.set(key, { askedAt: Date.now(), found });
    if (device !== ofDevice || incident !== ofIncident) return;
    if (found) show();
  }
  // Those asked for last are the last of the map.
  for (const key of [...sparks.keys()].slice(0, -SPARKS_KEPT)) sparks.delete(key);
});

/** What the sparkline of an incident shows: as long before its start as it has lasted, five minutes at least. */
function sparkRange({ suspect, startedAt, resolvedAt }) {
  const to = Math.min(nowByServer(), resolvedAt ? resolvedAt + SPARK_BEFORE_S : Infinity);
  const before = Math.max(SPARK_BEFORE_S, Math.min(to - startedAt, 43_200));
  const expected = suspect.kind === "deviation" ? suspect.expected : null;
  // Of the time before the server's start there is nothing.
  const from = Math.max(startedAt - before, Math.min(serverStart, startedAt - SPARK_START_S));
  return { device: suspect.device, series: suspect.series, from, to, began: startedAt, ended: resolvedAt, expected };
}

/** What is not judged so far, and is thus not seen to be wrong. */
function unwatched() {
  if (!watched) return [];
  const { judged, learning, unjudged } = watched;
  const total = count(judged + learning + unjudged);
  if (learning) return [`learning what is usual of ${count(learning)} of ${total} series for ${duration(nowByServer() - serverStart)}`];
  return judged ? [] : ["no series is judged for incidents so far"];
}

/** Since when, and how long that is. */
const since = (at, now) => `${moment(at, now)}, ${duration(now - at)}`;

/** How many streams and devices: "12 of 14 series still, 9 devices". A silent device is no series. */
function extent({ kind, memberCount, openCount, deviceCount, state }) {
  const isOfDevices = kind === "silence" && memberCount === deviceCount;
  const devices = deviceCount === 1 ? "1 device" : `${count(deviceCount)} devices`;
  const members = isOfDevices ? devices : `${count(memberCount)} series`;
  const still = isWrong({ state }) && openCount < memberCount ? `${count(openCount)} of ${members} still` : members;
  return deviceCount > 1 && !isOfDevices ? `${still}, ${devices}` : still;
}

function stateOf({ state, ack, resolvedAt, startedAt }, now) {
  if (state === "resolved") return `resolved ${moment(resolvedAt, now)}, lasted ${briefDuration(resolvedAt - startedAt)}`;
  if (state === "acknowledged") return `acknowledged${ack?.by ? ` by ${ack.by}` : ""} at ${moment(ack.at, now)}`;
  return state;
}

function suspectOf({ suspect, kind }) {
  if (kind === "reception") return "nothing was received";
  const name = suspect.device ?? "the fleet";
  if (kind === "silence") return `${name}, usually every ${briefDuration(suspect.usual)}`;
  const [low, high] = range(suspect.expected.low, suspect.expected.high);
  return `${name} ${suspect.series ?? ""}: ${brief(suspect.value)}, usually ${low} – ${high}`;
}

function incidentRows(list, items, now) {
  const make = () => template("incident-row").cloneNode(true);
  rows(list, items, ({ id }) => id, make, (row, one) => {
    row.dataset.severity = isWrong(one) ? one.severity : "over";
    const anchor = row.querySelector("a");
    const to = incidentAddress(one.id);
    if (anchor.getAttribute("href") !== to) anchor.href = to;
    write(row.querySelector(".severity"), isWrong(one) ? one.severity : one.state);
    write(anchor, one.title);
    // Of one series the title says it all.
    write(row.querySelector(".suspect"), one.memberCount > 1 ? `First suspect: ${suspectOf(one)}` : "");
    write(row.querySelector(".since"), one.state === "resolved" ? stateOf(one, now) : `since ${since(one.startedAt, now)}`);
    showSpark(row.querySelector("svg"), one.id, sparkRange(one));
    write(row.querySelector(".extent"), one.state === "acknowledged" ? `${extent(one)}, ${stateOf(one, now)}` : extent(one));
  });
}

// ---- one incident

function noIncident() {
  incidentShown = null;
  write(byId("incident-title"), "No such incident");
  write(byId("incident-line"), "The server keeps the last ones that are resolved, until it ends.");
  byId("incident-acts").hidden = true;
  byId("members").replaceChildren();
}

function showIncident(found) {
  incidentShown = found;
  const now = nowByServer();
  const isOver = found.state === "resolved";
  byId("incident").dataset.severity = isWrong(found) ? found.severity : "over";
  write(byId("incident-title"), found.title);
  const when = isOver ? stateOf(found, now) : `since ${since(found.startedAt, now)}, ${stateOf(found, now)}`;
  write(byId("incident-line"), `${found.severity}, ${when}; ${extent(found)}`);
  write(byId("incident-suspect"), found.memberCount > 1 ? `First suspect: ${suspectOf(found)}.` : "");
  write(byId("incident-because"), found.because && found.memberCount > 1 ? `One incident, because ${found.because}.` : "");
  write(byId("incident-ack"), found.ack?.comment ? `${found.ack.by ?? "Somebody"}: ${found.ack.comment}` : "");
  document.title = `${found.title} · sigmad`;
  byId("incident-acts").hidden = false;
  byId("ack").hidden = found.state !== "open";
  const isOfSite = found.site !== null && found.deviceCount > 1;
  byId("silence-site").hidden = isOver || found.state === "silenced" || !isOfSite;
  write(byId("silence-site"), `Silence ${found.site} for 1 h`);
  byId("silence").hidden = isOver || found.state === "silenced" || found.suspect.device === null;
  const first = Math.min(...found.members.map(({ startedAt }) => startedAt));
  const make = () => template("member-row").cloneNode(true);
  const members = found.members.slice(0, MEMBERS_SHOWN);
  const lasts = sparkRange(found);
  showGrafana(byId("incident-grafana"), found.suspect.device, found.suspect.series, lasts.from, lasts.to, found.id);
  write(byId("members-span"), `timeline from ${moment(lasts.from, now)} to ${moment(lasts.to, now)}`);
  const drawn = new Map(members.filter(hasSeries).slice(0, MEMBER_SPARKS).map((member) => [memberKey(member), memberRange(member, lasts)]));
  fetchSparks([...drawn], () => incidentShown && showIncident(incidentShown));
  rows(byId("members"), members, ({ device: name, series }) => JSON.stringify([name, series]), make, (row, member) => {
    const [began, name, timeline, value, expected, score, ended] = row.cells;
    const lasted = memberRange(member, lasts);
    const svg = timeline.firstElementChild;
    // The others have the time axis of now too.
    if (!svg.childElementCount || !drawn.has(memberKey(member))) drawTime(svg, lasted);
    showSpark(svg, memberKey(member), lasted);
    write(began, member.startedAt === first ? moment(first, now) : `+${briefDuration(member.startedAt - first)}`);
    began.title = new Date(member.startedAt * 1000).toISOString();
    const [anchor, series] = name.firstElementChild.children;
    if (member.device !== null) link(name, member.device, member.series === null ? address(member.device) : address(member.device, member.series));
    else write(anchor, "the fleet");
    write(series, member.series ?? member.kind);
    series.title = member.series ?? "";
    const isSilence = member.kind !== "deviation";
    write(value, isSilence ? briefDuration(member.value) : brief(member.value));
    value.title = member.value;
    write(expected, isSilence ? briefDuration(member.usual) : range(member.expected.low, member.expected.high).join(" – "));
    write(score, deviations(member.score));
    write(ended, member.endedAt === null ? "open" : briefDuration(member.endedAt - member.startedAt));
    row.classList.toggle("unusual", member.endedAt === null);
  });
  const left = found.memberCount - members.length;
  byId("more-members").hidden = left <= 0;
  write(byId("more-members"), `${count(left)} more`);
}

const memberKey = ({ device: name, series }) => JSON.stringify([incident, name, series]);

/** All members of an incident have one time axis. */
function memberRange(member, { from, to }) {
  const expected = member.kind === "deviation" ? member.expected : null;
  return { device: member.device, series: member.series, from, to, began: member.startedAt, ended: member.endedAt, expected };
}

/** Before its series is known: only when it was wrong. */
const drawTime = (svg, range) => drawSpark(svg, { at: [range.from], step: 0, values: [0] }, { ...range, expected: null });

// ---- what an operator changes

/** Asks for a change, which an operator alone may. */
async function change(path, body, button, method = "POST") {
  const headers = { "Content-Type": "application/json" };
  const token = sessionStorage.getItem(OPERATOR_KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  button.disabled = true;
  const options = { method, headers, cache: "no-store", ...(body && { body: JSON.stringify(body) }) };
  const answer = await fetch(path, options).catch(() => null);
  button.disabled = false;
  silencesAt = 0;
  if (answer?.ok) return fetchIncidents();
  if (answer?.status === 401 || (answer?.status === 403 && token)) return askForToken(answer.status, OPERATOR_KEY);
  const why = answer?.status === 403 ? "only from the server's machine, or with --operator-token" : (answer?.status ?? "no answer");
  notice(`not done: ${why}`, 6_000);
}

/** Nobody is told of the devices that match, for an hour. */
function silence(pattern, button) {
  const startsAt = Math.floor(nowByServer());
  const of = { device: pattern, startsAt, endsAt: startsAt + SILENCE_S };
  change("/silences", { ...of, createdBy: "page", comment: `incident ${incident}` }, button);
}

let silencesAt = 0;

/** What is silenced, since when and until when: each can be ended. */
async function fetchSilences() {
  if (device !== null || incident !== null || Date.now() - silencesAt < SILENCES_MS) return;
  silencesAt = Date.now();
  const found = await askJson("/silences");
  if (!found) return;
  const now = nowByServer();
  const active = found.silences.filter(({ endsAt }) => endsAt > now);
  byId("silences").hidden = !active.length;
  write(byId("silences-title"), active.length === 1 ? "1 silence" : `${active.length} silences`);
  const make = () => template("silence-row").cloneNode(true);
  rows(byId("silence-rows"), active, ({ id }) => id, make, (row, { id, device: of, series, startsAt, endsAt, createdBy, comment }) => {
    const [text, button] = row.children;
    const what = [of, series].filter((pattern) => pattern !== null).join(" ");
    write(text, `${what}: from ${moment(startsAt, now)} to ${moment(endsAt, now)}, by ${createdBy}${comment ? `, ${comment}` : ""}`);
    button.onclick = () => change(`/silences/${id}`, null, button, "DELETE");
  });
}

byId("ack").addEventListener("click", () => change(`/incidents/${incident}/ack`, {}, byId("ack")));
byId("silence").addEventListener("click", () => silence(incidentShown.suspect.device, byId("silence")));
byId("silence-site").addEventListener("click", () => silence(`*${incidentShown.site}*`, byId("silence-site")));
byId("copy-link").addEventListener("click", () => copy(location.href, byId("copy-link")));
byId("copy-incident").addEventListener("click", () => copy(JSON.stringify(incidentShown, null, 2), byId("copy-incident")));
document.addEventListener("visibilitychange", () => document.hidden || fetchIncidents());
