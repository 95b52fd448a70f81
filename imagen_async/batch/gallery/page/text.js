// Words: how values are shown, folded for the search, and copied.

const STATUSES = { done: "Done", unknown: "Unknown", failed: "Failed" };
const CHARGES = { no: "not charged", maybe: "maybe charged", yes: "charged" };

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const plural = (value, one) => `${number(value)} ${one}${value === 1 ? "" : "s"}`;

/** Case, accents and width set aside, so that "cafe" finds "Café". */
const fold = (text) =>
  /^[\x00-\x7f]*$/.test(text) ? text.toLowerCase() : text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

// Controls, marks that turn the direction of text, and characters that show as nothing; those
// that join letters and emoji stay.
const UNSEEN = /(?![\n\t\u200c\u200d\u{e0020}-\u{e007f}])[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu;

/** A foreign text with what would otherwise act unseen written out, as \u202e. */
const visible = (value) =>
  String(value).replace(UNSEEN, (found) => `\\u${found.codePointAt(0).toString(16).padStart(4, "0")}`);

const size = (card) => (card.width && card.height ? `${card.width} × ${card.height}` : "");

/** What stands in the place of a file that no page shows: it may run what it holds. */
const unseen = (card) => visible(`Not shown: ${card.media_type ?? "no picture inside this folder"}`);

/** The start of a text on one line: a tile has no room for more. */
const brief = (text) => visible(text.length > 300 ? `${text.slice(0, 300)}…` : text);

/** What a card is called where there is room for a line. */
const name = (card) => brief(card.prompt ?? card.id ?? "No prompt is on record.");

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

/** Milliseconds of a card's time: Unix seconds or an ISO text; NaN if it has none. */
const time = (created) => (typeof created === "number" ? created * 1000 : Date.parse(created));

function when(card) {
  const moment = new Date(time(card.created));
  const style = { dateStyle: "medium", timeStyle: "medium" };
  return Number.isNaN(moment.getTime()) ? "" : moment.toLocaleString(undefined, style);
}

/** Put a text on the clipboard; from disk a browser may refuse the clipboard's own interface. */
async function copy(text, within = document.body) {
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

/** Hand a text to the reader as a file. */
function download(text, file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Make an element: its class, then texts and elements in it. */
function make(tag, className, ...parts) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...parts);
  return element;
}

/** Say on a button what became of pressing it, for a moment. */
async function answer(button, work, done) {
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  clearTimeout(button.timer);
  const fine = await work;
  button.textContent = fine ? done : "Press Ctrl+C: the browser refused";
  button.classList.toggle("copied", fine);
  button.timer = setTimeout(() => {
    button.textContent = before;
    button.classList.remove("copied");
  }, 1600);
}
