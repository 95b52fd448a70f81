// The grid: every card has its place, and only the tiles near the window exist.

const MARGINS = [0.6, 0.3, 0.1, 0]; // windows above and below that are kept ready
const MOST = 350; // tiles at once, where the window itself does not hold more

const GONE = manifest.live ? "Not loaded" : "The file is missing";
const describe = (card) => [name(card), size(card)].filter(Boolean).join(", ");

function makePicture(card) {
  const item = byId("tile").content.cloneNode(true).firstElementChild;
  const [image, caption] = item.querySelectorAll("img, .caption");
  const lost = () => item.classList.add("lost");
  item.firstElementChild.dataset.note = card.src ? GONE : unseen(card);
  image.onload = () => item.classList.add("loaded");
  image.onerror = lost;
  if (card.src) image.src = card.src;
  else lost();
  caption.textContent = name(card);
  return item;
}

function makeProblem(card) {
  const item = byId("problem").content.cloneNode(true).firstElementChild;
  const [badge, charge, what, why, trace] = item.querySelectorAll("b, i, .what, .why, .trace");
  badge.textContent = STATUSES[card.status];
  charge.textContent = CHARGES[card.charge] ?? "";
  charge.dataset.charge = card.charge ?? "";
  what.textContent = name(card);
  why.textContent = brief(card.message ?? card.error ?? "No reason is on record.");
  trace.textContent = visible(card.reason ?? "");
  return item;
}

/** Show cards in `list`; `open` hears of a pressed tile. */
function openGrid(list, cards, stars, open) {
  const tiles = new Map();
  let shown = [];
  let layout = justify([], [], 1, 1, 0);
  let wanted = 200;
  let below = 0;
  let queued = false;

  const focused = () => [...tiles].find(([, item]) => item.contains(document.activeElement))?.[0];

  function drop(index) {
    const item = tiles.get(index);
    item.querySelector("img")?.removeAttribute("src"); // ends a download that nobody waits for
    item.remove();
    tiles.delete(index);
  }

  function place(index) {
    const { left, top, width, height } = tileAt(layout, index);
    const item = tiles.get(index);
    item.style.transform = `translate(${left}px, ${top}px)`;
    item.style.width = `${width}px`;
    item.style.height = `${height}px`;
  }

  function makeTile(index) {
    const card = cards.card(shown[index]);
    const item = card.status === "done" ? makePicture(card) : makeProblem(card);
    const button = item.firstElementChild;
    item.className = `${item.className} ${card.status}`.trim();
    item.ariaSetSize = shown.length;
    item.ariaPosInSet = index + 1;
    item.dataset.key = card.key;
    if (card.status === "done") button.ariaLabel = describe(card); // a problem's words are its name
    button.onclick = () => open(shown[index]);
    decorate(item);
    return item;
  }

  function decorate(item) {
    const starred = stars.has(item.dataset.key);
    item.classList.toggle("starred", starred);
    item.firstElementChild.ariaDescription = starred ? "starred" : null;
  }

  function add(index) {
    const item = makeTile(index);
    const after = [...list.children].find((other) => Number(other.ariaPosInSet) > index + 1);
    list.insertBefore(item, after ?? null); // reading order is the order of rows
    tiles.set(index, item);
    place(index);
  }

  function show() {
    queued = false;
    const above = -list.getBoundingClientRect().top;
    let first = 0;
    let end = 0;
    for (const margin of MARGINS) {
      first = layout.lines[lineAt(layout.lines, above - innerHeight * margin)]?.first ?? shown.length;
      end = layout.lines[lineAt(layout.lines, above + innerHeight * (1 + margin))]?.end ?? shown.length;
      if (end - first <= MOST) break;
    }
    const kept = focused();
    for (const index of [...tiles.keys()]) if ((index < first || index >= end) && index !== kept) drop(index);
    for (let index = first; index < end; index += 1) if (!tiles.has(index)) add(index);
  }

  function queue() {
    if (!queued) requestAnimationFrame(show);
    queued = true;
  }

  /** A tile in the window, the focused one if it is there: what must not move under the reader's eyes. */
  function anchor(above) {
    const focus = tileAt(layout, focused());
    if (focus && focus.top < above + innerHeight && focus.top + focus.height > above) return focused();
    return above > 0 ? layout.lines[lineAt(layout.lines, above)]?.first : undefined;
  }

  function arrange(fresh) {
    const above = -list.getBoundingClientRect().top;
    const index = fresh ? undefined : anchor(above);
    const offset = scrollY - tileAt(layout, index)?.top; // read now: a shorter list clamps it
    layout = justify(shown, cards.shapes, list.clientWidth, wanted, below);
    list.style.height = `${layout.height}px`;
    for (const kept of tiles.keys()) place(kept);
    if (tileAt(layout, index)) scrollTo(0, offset + tileAt(layout, index).top);
    queue();
  }

  function focus(index) {
    if (!tileAt(layout, index)) return;
    if (!tiles.has(index)) add(index);
    tiles.get(index).firstElementChild.focus({ preventScroll: true });
    tiles.get(index).scrollIntoView({ block: "nearest" });
    queue();
  }

  /** The tile of the line above or below whose middle is nearest. */
  function beside(index, lines) {
    const line = layout.lines[layout.lines.indexOf(lineOf(layout.lines, index)) + lines];
    if (!line) return index;
    const middle = (at) => tileAt(layout, at).left + tileAt(layout, at).width / 2;
    const away = (other) => Math.abs(middle(other) - middle(index));
    let best = line.first;
    for (let other = line.first; other < line.end; other += 1) if (away(other) < away(best)) best = other;
    return best;
  }

  list.addEventListener("keydown", (event) => {
    const index = focused();
    if (index === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = {
      ArrowLeft: () => index - 1,
      ArrowRight: () => index + 1,
      ArrowUp: () => beside(index, -1),
      ArrowDown: () => beside(index, 1),
      Home: () => 0,
      End: () => shown.length - 1,
    };
    if (!Object.hasOwn(steps, event.key)) return;
    event.preventDefault();
    focus(steps[event.key]());
  });
  addEventListener("scroll", queue, { passive: true });
  addEventListener("resize", queue);
  new ResizeObserver(() => arrange(false)).observe(list.parentElement);

  return {
    focus: (card) => focus(shown.indexOf(card)),
    /** The card whose tile has the focus. */
    current: () => shown[focused()],
    /** Show other cards; `same` says that those shown so far stay where they are. */
    show(next, same) {
      shown = next;
      if (!same) for (const index of [...tiles.keys()]) drop(index);
      for (const item of tiles.values()) item.ariaSetSize = shown.length;
      arrange(!same);
    },
    /** Lay the tiles out anew: `height` of their pictures, `captions` under them. */
    resize(height, captions) {
      if (wanted === height && list.classList.contains("captions") === captions) return;
      wanted = height;
      below = captions ? CAPTION : 0;
      list.classList.toggle("captions", captions);
      arrange(false);
    },
    decorate: () => tiles.forEach(decorate),
  };
}
