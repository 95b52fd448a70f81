// Words: how values are shown, folded for the search, and copied.

const STATUSES = { done: "Done", unknown: "Unknown", failed: "Failed" };
const CHARGES = { no: "not charged", maybe: "maybe charged", yes: "charged" };

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const plural = (value, one) => `${number(value)} ${one}${value === 1 ? "" : "s"}`;

/** Case, accents and width set aside, so that "cafe" finds "Café". */
const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

const size = (row) => (row.width && row.height ? `${row.width} × ${row.height}` : "");

/** What stands in the place of a file that no page shows: it may run what it holds. */
const unseen = (row) => `Not shown: ${row.media_type ?? "no picture inside this folder"}`;

/** The start of a text: a tile has no room for more. */
const brief = (text) => (text.length > 300 ? `${text.slice(0, 300)}…` : text);

function bytes(value) {
  if (value === undefined) return "";
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  for (; value >= 1000 && unit < 3; unit += 1) value /= 1000;
  return `${unit ? value.toFixed(value < 10 ? 1 : 0) : value} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Milliseconds of a row's time: Unix seconds or an ISO text; NaN if it has none. */
const time = (row) => (typeof row.created === "number" ? row.created * 1000 : Date.parse(row.created));

function when(row) {
  const moment = new Date(time(row));
  const style = { dateStyle: "medium", timeStyle: "medium" };
  return Number.isNaN(moment.getTime()) ? "" : moment.toLocaleString(undefined, style);
}

/** Put a text on the clipboard; from disk a browser may refuse the clipboard's own interface. */
async function copy(text, within) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    const focused = document.activeElement;
    area.value = text;
    area.className = "offscreen";
    within.append(area); // in the dialog: what is outside of it cannot be selected
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}
