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

/** The last answer of the server; null before the first. */
let incidentList = null;
let incidentListAt = 0;
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
    if (of !== incident) return;
    if (found && of === null) takeIncidents(found.incidents);
    else if (found) showIncident(found);
    else if (of !== null && answer?.status === 404) noIncident();
    else if (of === null) showIncidents();
  }
  clearTimeout(incidentTimer);
  incidentTimer = setTimeout(fetchIncidents, INCIDENTS_MS);
}

function takeIncidents(found) {
  incidentList = found;
  incidentListAt = Date.now();
  const open = new Set(found.filter(isWrong).map(({ id }) => id));
  const news = found.filter(({ id }) => open.has(id) && openBefore && !openBefore.has(id));
  if (news.length) write(byId("announce"), `${news.length} new: ${news[0].title}`);
  openBefore = open;
  showIncidents();
}

function showIncidents() {
  const section = byId("incidents");
  if (incidentList === null) return write(byId("incidents-title"), "Looking for incidents");
  const open = incidentList.filter(isWrong);
  open.sort((one, other) => severityRank(one) - severityRank(other) || one.startedAt - other.startedAt);
  const ended = incidentList.filter(({ state, mergedInto }) => state === "resolved" && !mergedInto);
  const silenced = incidentList.filter(({ state }) => state === "silenced");
  const now = Date.now() / 1000 + skew;
  const isStale = Date.now() - incidentListAt > 4 * INCIDENTS_MS;
  // While no series is judged, silence says nothing.
  const isLearning = !watched?.judged;
  section.dataset.state = isStale ? "stale" : open.length ? open[0].severity : isLearning ? "learning" : "well";
  if (open.length) {
    write(byId("incidents-title"), open.length === 1 ? "1 open incident" : `${open.length} open incidents`);
    write(byId("incidents-since"), `the first since ${since(Math.min(...open.map(({ startedAt }) => startedAt)), now)}`);
  } else {
    const last = Math.max(0, ...ended.map(({ resolvedAt }) => resolvedAt));
    const well = isLearning ? "No open incident" : `All well for ${duration(now - Math.max(last, serverStart))}`;
    write(byId("incidents-title"), watched ? well : "Looking for incidents");
    const past = last > serverStart ? `the last incident ended at ${moment(last, now)}` : "none since the start";
    write(byId("incidents-since"), [...(isLearning ? [] : [past]), ...unwatched()].join("; "));
  }
  if (isStale) write(byId("incidents-since"), `as of ${time(incidentListAt / 1000 + skew)}; the server does not answer`);
  if (device === null && incident === null) document.title = open.length ? `(${open.length}) sigmad` : "sigmad";
  incidentRows(byId("open-incidents"), open, now);
  incidentRows(byId("past-rows"), [...silenced, ...ended.slice(0, RESOLVED_SHOWN)], now);
  byId("past").hidden = !silenced.length && !ended.length;
  const silent = silenced.length ? `${silenced.length} silenced, ` : "";
  write(byId("past-title"), `${silent}${ended.length === 1 ? "1 resolved" : `${ended.length} resolved`}`);
}

/** What is not judged so far, and is thus not seen to be wrong. */
function unwatched() {
  if (!watched) return [];
  const { judged, learning, unjudged } = watched;
  if (learning) return [`learning what is usual of ${count(learning)} of ${count(judged + learning + unjudged)} series`];
  return judged ? [] : ["no series is judged for incidents"];
}

/** Since when, and how long that is. */
const since = (at, now) => `${moment(at, now)}, ${duration(now - at)}`;

/** How many streams and devices: "12 of 14 streams still, 9 devices". */
function extent({ memberCount, openCount, deviceCount, state }) {
  const streams = memberCount === 1 ? "1 series" : `${count(memberCount)} series`;
  const still = isWrong({ state }) && openCount < memberCount ? `${count(openCount)} of ${streams} still` : streams;
  return deviceCount > 1 ? `${still}, ${count(deviceCount)} devices` : still;
}

function stateOf({ state, ack, resolvedAt, startedAt }, now) {
  if (state === "resolved") return `resolved ${moment(resolvedAt, now)}, lasted ${briefDuration(resolvedAt - startedAt)}`;
  if (state === "acknowledged") return ack?.by ? `acknowledged by ${ack.by}` : "acknowledged";
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
    write(row.querySelector(".suspect"), suspectOf(one));
    write(row.querySelector(".since"), one.state === "resolved" ? stateOf(one, now) : `since ${since(one.startedAt, now)}`);
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
  const now = Date.now() / 1000 + skew;
  const isOver = found.state === "resolved";
  byId("incident").dataset.severity = isWrong(found) ? found.severity : "over";
  write(byId("incident-title"), found.title);
  const when = isOver ? stateOf(found, now) : `since ${since(found.startedAt, now)}, ${stateOf(found, now)}`;
  write(byId("incident-line"), `${found.severity}, ${when}; ${extent(found)}`);
  write(byId("incident-suspect"), `First suspect: ${suspectOf(found)}.`);
  write(byId("incident-because"), found.because && found.memberCount > 1 ? `One incident, because ${found.because}.` : "");
  write(byId("incident-ack"), found.ack?.comment ? `${found.ack.by ?? "Somebody"}: ${found.ack.comment}` : "");
  document.title = `${found.title} · sigmad`;
  byId("incident-acts").hidden = false;
  byId("ack").hidden = found.state !== "open";
  byId("silence").hidden = isOver || found.state === "silenced" || found.suspect.device === null;
  const first = Math.min(...found.members.map(({ startedAt }) => startedAt));
  const make = () => template("member-row").cloneNode(true);
  const members = found.members.slice(0, MEMBERS_SHOWN);
  rows(byId("members"), members, ({ device: name, series }) => JSON.stringify([name, series]), make, (row, member) => {
    const [began, name, value, expected, score, ended] = row.cells;
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

/** Asks for a change, which an operator alone may. */
async function change(path, body, button) {
  const headers = { "Content-Type": "application/json" };
  const token = sessionStorage.getItem(OPERATOR_KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  button.disabled = true;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store" }).catch(() => null);
  button.disabled = false;
  if (answer?.ok) return fetchIncidents();
  if (answer?.status === 401 || (answer?.status === 403 && token)) return askForToken(answer.status, OPERATOR_KEY);
  const why = answer?.status === 403 ? "only from the server's machine, or with --operator-token" : (answer?.status ?? "no answer");
  notice(`not done: ${why}`, 6_000);
}

byId("ack").addEventListener("click", () => change(`/incidents/${incident}/ack`, {}, byId("ack")));
byId("silence").addEventListener("click", () => {
  const startsAt = Math.floor(Date.now() / 1000 + skew);
  const of = { device: incidentShown.suspect.device, startsAt, endsAt: startsAt + SILENCE_S };
  change("/silences", { ...of, createdBy: "page", comment: `incident ${incident}` }, byId("silence"));
});
byId("copy-link").addEventListener("click", () => copy(location.href, byId("copy-link")));
byId("copy-incident").addEventListener("click", () => copy(JSON.stringify(incidentShown, null, 2), byId("copy-incident")));
document.addEventListener("visibilitychange", () => document.hidden || fetchIncidents());
