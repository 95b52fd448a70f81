// The page: what the reader chose, and what follows from it.

const NOTHING = manifest.live ? "The first picture is on its way." : "Nothing is here yet: the batch has settled no item.";
let { choice, open: awaited } = readAddress();
let shown = [];
let drawn = 0; // when cards that came were last shown

const narrowed = (fields) => fields.some((field) => chosen(field, choice[field]));
const cards = openCards(arrived);
const stars = openStars(() => {
  grid.decorate();
  lightbox.drawStar();
  if (choice.starred) refresh(false);
  else drawStars(stars, choice);
});
const grid = openGrid(byId("grid"), cards, stars, (index) => lightbox.open(index));
const lightbox = openLightbox(cards, stars, () => shown, {
  onChange: (card, push) => writeAddress(choice, card.key, push),
  onStar: (key) => stars.toggle(key),
  onClose(card) {
    writeAddress(choice, "", false);
    // The dialog tells of its closing a moment late: a reader who already types keeps the focus.
    if (document.activeElement !== byId("search")) grid.focus(card.index);
  },
});

/** Show cards that came: the first at once, then a few times a second, and all at the end. */
function arrived() {
  const due = cards.complete() || !drawn || performance.now() - drawn > 400;
  if (!due) return drawCount();
  refresh(false);
  drawn = performance.now();
  openAwaited();
}

function openAwaited() {
  const index = awaited ? cards.find(awaited) : -1;
  if (index < 0) return;
  awaited = "";
  lightbox.open(index);
}

/** Show what the choice shows of the cards that came. */
function refresh(changed) {
  const { found, counts } = cards.select(choice, choice.starred ? stars.has : null);
  const everything = cards.complete() ? cards.counts : manifest.counts;
  const beside = Object.keys(choice).filter((field) => !["status", "ratio", "order"].includes(field));
  // An order is known only once all cards came; until then nothing jumps about.
  const same = !changed && found.length >= shown.length && (choice.order === "batch" || !cards.complete());
  shown = found;
  grid.show(shown, same);
  drawCount();
  drawSummary(everything);
  drawFilters(narrowed(beside) ? counts : everything, everything, choice, choose);
  drawColumns(choice, choose);
  drawReasons(cards, choice, choose);
  drawStars(stars, choice);
  lightbox.refresh();
}

function choose(change) {
  choice = { ...choice, ...change };
  if ("status" in change && !("reason" in change)) choice.reason = "";
  writeAddress(choice, "", false);
  draw();
  scrollTo({ top: Math.min(scrollY, byId("grid").offsetTop) });
}

/** Show the choice in its controls and in the grid. */
function draw() {
  if (byId("search").value !== choice.q) byId("search").value = choice.q;
  byId("order").value = choice.order;
  for (const menu of byId("columns").children) menu.value = choice[menu.name] ?? "";
  arrange();
  refresh(true);
}

function total() {
  const counts = Object.values(manifest.counts).flatMap((ratios) => Object.values(ratios));
  return Math.max(
    counts.reduce((a, b) => a + b, 0),
    cards.size(),
  );
}

function drawCount() {
  const all = total();
  const whole = cards.complete();
  byId("count").textContent = !narrowed(Object.keys(choice))
    ? ""
    : whole
      ? `${number(shown.length)} of ${number(all)}`
      : `${number(shown.length)} found, ${number(cards.size())} of ${number(all)} searched …`;
  byId("empty").hidden = shown.length > 0 || !(whole || all === 0);
  byId("clear").hidden = all === 0;
  byId("empty-text").textContent = all === 0 ? NOTHING : "No picture matches.";
  byId("note").hidden = !cards.missing.length;
  byId("note").textContent =
    `${plural(cards.missing.length, "data file")} of this gallery cannot be read. Reload the page, or write the gallery again.`;
}

function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  byId("theme").ariaPressed = wanted === "dark";
}

const dark = matchMedia("(prefers-color-scheme: dark)");
theme(kept("theme") ?? (dark.matches ? "dark" : "light"));
dark.onchange = () => kept("theme") ?? theme(dark.matches ? "dark" : "light");
byId("theme").onclick = () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  keep("theme", document.documentElement.dataset.theme);
};

const slider = byId("size");
const captions = byId("captions");
function arrange() {
  const words = choice.status === "failed" || choice.status === "unknown"; // no picture among them
  grid.resize(Number(slider.value) * (words ? 0.65 : 1), captions.ariaPressed === "true" && !words);
}
slider.value = Number(kept("size")) || (innerWidth < 640 ? 180 : 250);
slider.oninput = () => {
  arrange();
  keep("size", slider.value);
};
captions.ariaPressed = kept("captions") !== "false";
captions.onclick = () => {
  captions.ariaPressed = captions.ariaPressed !== "true";
  arrange();
  keep("captions", captions.ariaPressed);
};

byId("search").oninput = ({ target }) => choose({ q: target.value });
byId("search").onkeydown = ({ key }) => {
  if (key === "Escape") choose({ q: "" });
};
byId("order").onchange = ({ target }) => choose({ order: target.value });
byId("clear").onclick = () => {
  choice = { ...NO_CHOICE };
  choose({});
  byId("search").focus();
};
byId("starred").onclick = () => choose({ starred: choice.starred ? "" : "1" });
byId("export-list").onclick = () => download(exported(cards, shown, "list"), "starred.txt");
byId("export-rows").onclick = () => download(exported(cards, shown, "rows"), "starred.jsonl");
byId("export-copy").onclick = () => answer(byId("export-copy"), copy(exported(cards, shown, "list")), "Copied");
byId("export-clear").onclick = () => {
  stars.clear();
  choose({ starred: "" });
};
byId("help").onclick = () => byId("keys").showModal();
byId("keys-close").onclick = () => byId("keys").close();
byId("keys").onclick = ({ target }) => target === byId("keys") && byId("keys").close();

addEventListener("keydown", (event) => {
  const typed = event.target.closest("input:not([type=range]), select, textarea");
  if (typed || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") return byId("keys").open ? byId("keys").close() : byId("keys").showModal();
  if (document.querySelector("dialog[open]")) return;
  const keys = {
    "/": () => byId("search").focus(),
    t: () => captions.click(),
    f: () => !byId("starred").hidden && byId("starred").click(),
    s: () => grid.current() !== undefined && stars.toggle(cards.card(grid.current()).key),
  };
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});
addEventListener("popstate", () => {
  ({ choice, open: awaited } = readAddress());
  if (!awaited) lightbox.close();
  draw();
  openAwaited();
});

drawNotice();
draw();
cards.bring();
openLive(cards, ({ cost }) => {
  if (cost > 0) manifest.report.cost = cost;
  drawSummary(cards.counts);
});
