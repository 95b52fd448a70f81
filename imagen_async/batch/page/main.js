// The page: what the reader chose, and what follows from it.

const choice = { ...NO_CHOICE };
let shown = [];
const total = () => tally(data.rows, choice).total;

const keep = (name, value) => {
  try {
    localStorage.setItem(`imagen-gallery-${name}`, value);
  } catch {} // a browser may keep nothing for pages from disk
};
const kept = (name) => {
  try {
    return localStorage.getItem(`imagen-gallery-${name}`);
  } catch {
    return null;
  }
};

const data = openRows(refresh);
const grid = openGrid(byId("grid"), (index) => lightbox.open(index), more);
const lightbox = openLightbox(() => shown, total, more, (index) => {
  // The dialog tells of its closing a moment late: a reader who already types keeps the focus.
  if (document.activeElement !== byId("search")) grid.focus(index);
});

const narrowed = () => Object.keys(NO_CHOICE).some((name) => choice[name].trim() !== NO_CHOICE[name]);

function more() {
  if (!data.complete() && !narrowed()) data.want(data.settled() + 1);
}

/** Show what the choice shows of the rows that came. */
function refresh(changed) {
  // An order is known only once all rows came; until then nothing jumps about.
  const order = data.complete() ? choice.order : "batch";
  const next = chosen(data.rows, { ...choice, order });
  const same = !changed && next.length >= shown.length && (order === "batch" || !data.complete());
  shown = next;
  grid.show(shown, same);
  drawCount();
  drawChips();
  lightbox.refresh();
  if (data.missing.length) {
    byId("note").hidden = false;
    byId("note").textContent =
      `${plural(data.missing.length, "data file")} of this gallery cannot be read. Reload the page, or write the gallery again.`;
  }
}

function choose(change) {
  Object.assign(choice, change);
  if (narrowed()) data.want(manifest.pages.length);
  byId("search").value = choice.query;
  byId("order").value = choice.order;
  refresh(true);
  scrollTo({ top: Math.min(scrollY, byId("grid").offsetTop) });
}

function drawCount() {
  const all = tally([], NO_CHOICE).total;
  const text = !narrowed()
    ? ""
    : data.complete()
      ? `${number(shown.length)} of ${number(all)}`
      : `${number(shown.length)} found, ${number(data.rows.length)} of ${number(all)} searched …`;
  byId("count").textContent = text;
  const nothing = shown.length === 0 && (data.complete() || all === 0);
  byId("empty").hidden = !nothing;
  byId("clear").hidden = all === 0;
  byId("empty-text").textContent = all === 0 ? "Nothing is here yet: the batch has settled no item." : "No picture matches.";
}

function chip(label, count, pressed, press) {
  const button = document.createElement("button");
  const badge = document.createElement("span");
  button.type = "button";
  button.ariaPressed = pressed;
  button.onclick = press;
  button.className = count ? "" : "none";
  badge.textContent = number(count ?? 0);
  button.append(...label, badge);
  return button;
}

/** A small rectangle of the ratio itself. */
function glyph(ratio) {
  const drawing = document.createElement("i");
  const [across, down] = ratio.split(":").map(Number);
  if (!(across / down > 0)) return [];
  drawing.style.width = `${Math.min(15, 15 * Math.min(1, across / down))}px`;
  drawing.style.height = `${15 / Math.max(1, across / down)}px`;
  return [drawing];
}

function drawChips() {
  const counts = tally(data.rows, choice);
  const everything = tally([], NO_CHOICE);
  const group = (id, field, names, label) => {
    const present = Object.keys(everything[id]).length > 1 ? names.filter((name) => everything[id][name]) : [];
    const active = [...byId(id).children].indexOf(document.activeElement);
    byId(id).replaceChildren(
      ...present.map((name) =>
        chip(label(name), counts[id][name], choice[field] === name, () =>
          choose({ [field]: choice[field] === name ? "" : name }),
        ),
      ),
    );
    byId(id).children[active]?.focus();
  };
  group("statuses", "status", Object.keys(STATUSES), (name) => {
    const dot = document.createElement("em");
    dot.className = name;
    return [dot, STATUSES[name]];
  });
  const ratios = Object.entries(everything.ratios).sort((a, b) => b[1] - a[1]);
  group("ratios", "ratio", ratios.map(([name]) => name), (name) => [...glyph(name), name]);
}

function drawSummary() {
  const { pages: _, counts, report } = manifest;
  const sum = (status) => Object.values(counts[status]).reduce((a, b) => a + b, 0);
  const parts = [plural(sum("done"), "picture")];
  if (sum("failed")) parts.push(`${number(sum("failed"))} failed`);
  if (sum("unknown")) parts.push(`${number(sum("unknown"))} unknown`);
  if (report.pending) parts.push(`${number(report.pending)} pending`);
  if (report.seconds) parts.push(duration(report.seconds));
  if (report.stopped_by) parts.push(`stopped by ${report.stopped_by}`);
  byId("summary").textContent = parts.join(" · ");
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").ariaPressed = name === "dark";
}

const dark = matchMedia("(prefers-color-scheme: dark)");
theme(kept("theme") ?? (dark.matches ? "dark" : "light"));
dark.onchange = () => kept("theme") ?? theme(dark.matches ? "dark" : "light");
byId("theme").onclick = () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  keep("theme", document.documentElement.dataset.theme);
};

let typing = 0;
byId("search").oninput = ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => choose({ query: target.value }), 120);
};
byId("search").onkeydown = ({ key }) => {
  if (key === "Escape") choose({ query: "" });
};
byId("order").onchange = ({ target }) => choose({ order: target.value });
byId("clear").onclick = () => {
  choose(NO_CHOICE);
  byId("search").focus();
};
addEventListener("keydown", (event) => {
  const typed = event.target.closest("input, select, textarea");
  if (event.key !== "/" || typed || event.ctrlKey || event.metaKey || byId("lightbox").open) return;
  event.preventDefault();
  byId("search").focus();
});

const slider = byId("size");
slider.value = Number(kept("size")) || (innerWidth < 640 ? 180 : 250);
slider.oninput = () => {
  grid.resize(Number(slider.value));
  keep("size", slider.value);
};
grid.resize(Number(slider.value));
drawSummary();
refresh(true);
data.want(1);
