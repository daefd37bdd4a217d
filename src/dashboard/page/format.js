// Numbers and times for display. Text enters the DOM as text nodes, never as markup.

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const four = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const threes = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const sameYear = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const otherYear = new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const UNITS = ["", "K", "M", "B", "T"];
const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A count or a rate. */
function count(value) {
  if (!isNumber(value)) return NONE;
  if (value >= 100_000) return compact.format(value);
  return value >= 100 ? whole.format(value) : short.format(value);
}

/** A reading, in the unit of its sender. */
function reading(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return minus(value.toExponential(2));
  return minus((size >= 1e7 ? compact : size >= 1000 ? whole : four).format(value));
}

/** The minus sign: as wide as a plus, and no line break after it. */
const minus = (text) => text.replaceAll("-", "−");

/** A reading in at most seven characters. */
function brief(value) {
  const size = Math.abs(value);
  if (!isNumber(value) || size === 0 || (size >= 1 && size < 1e4)) return reading(value);
  if (size < 1e-3) return minus(value.toExponential(1));
  return minus((size < 1 ? short : threes).format(value));
}

/** The ends of a range, with enough digits to differ. */
function range(low, high) {
  const isNarrow = high > low && high - low < 0.01 * Math.max(Math.abs(low), Math.abs(high));
  return isNarrow ? ticks([low, high], 10 ** Math.floor(Math.log10(high - low))) : [brief(low), brief(high)];
}

/** Labels of an axis: in one unit, with enough digits to differ. */
function ticks(values, step) {
  const size = Math.max(...values.map(Math.abs));
  if (size < 1e-3) return values.map((value) => minus(value ? Number(value.toPrecision(6)).toExponential() : "0"));
  let power = size < 1e5 ? 0 : Math.min(Math.floor(Math.log10(size) / 3), UNITS.length - 1);
  let digits = digitsOf(step / 1000 ** power);
  if (digits > 4) [power, digits] = [0, digitsOf(step)];
  const label = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return values.map((value) => minus(label.format(value / 1000 ** power)) + UNITS[power]);
}

/** Digits after the decimal point. */
function digitsOf(step) {
  const isWhole = (number) => Math.abs(number - Math.round(number)) < 1e-6 * number;
  let digits = 0;
  while (digits < 9 && !isWhole(step * 10 ** digits)) digits += 1;
  return digits;
}

/** A z-score or score; without spread in the window it has no bound. */
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

/** A duration in at most seven characters. */
function briefDuration(seconds) {
  if (seconds < 3600) return seconds < 1 ? "<1 s" : duration(seconds);
  const [size, unit] = seconds < 86_400 ? [3600, "h"] : [86_400, "d"];
  return `${(seconds / size).toFixed(1)} ${unit}`;
}

const time = (seconds) => clock.format(seconds * 1000);

/** A time today, or the date of another day. */
function moment(seconds, now) {
  const [then, today] = [new Date(seconds * 1000), new Date(now * 1000)];
  if (then.toDateString() === today.toDateString()) return clock.format(then);
  return (then.getFullYear() === today.getFullYear() ? sameYear : otherYear).format(then);
}

/** Writes only changed text, to avoid layout. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

async function copy(text, button) {
  let isDone = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS the clipboard API is not available.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    isDone = document.execCommand("copy");
    field.remove();
    button.focus({ preventScroll: true });
  }
  // The label before the first click, also for a second click.
  button.dataset.label ??= button.textContent;
  const isSmall = button.dataset.label.length < 4;
  button.textContent = isDone ? (isSmall ? "✓" : "Copied") : isSmall ? "✗" : "Not copied";
  write(byId("announce"), isDone ? "copied" : "not copied");
  clearTimeout(button.timer);
  button.timer = setTimeout(() => {
    button.textContent = button.dataset.label;
    write(byId("announce"), "");
  }, 1500);
}
