// Numbers and times as people read them; the DOM as strings never become markup.

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const four = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A count or a rate. */
function count(value) {
  if (!isNumber(value)) return NONE;
  if (value >= 100_000) return compact.format(value);
  return value >= 100 ? whole.format(value) : short.format(value);
}

/** A reading, in whatever unit its sender had. */
function reading(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e7 || size < 1e-4)) return value.toExponential(2);
  return size >= 1000 ? whole.format(value) : four.format(value);
}

/** Deviations; a window without spread has no end of them. */
function deviations(z) {
  if (!isNumber(z)) return NONE;
  if (Math.abs(z) >= 1000) return z < 0 ? "<−999" : ">999";
  const text = Math.abs(z).toFixed(Math.abs(z) < 99.95 ? 1 : 0);
  return z < 0 && Number(text) !== 0 ? `−${text}` : text;
}

function milliseconds(value) {
  if (!isNumber(value)) return NONE;
  if (value >= 100) return whole.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

const time = (seconds) => clock.format(seconds * 1000);

/** Writes only what has changed: the browser lays nothing out again for the rest. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS there is no clipboard but the old way.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}
