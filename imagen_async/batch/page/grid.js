// The grid: every row has its place, and only the tiles near the window exist.

const MARGIN = 1; // windows above and below that are kept ready

function describe(row) {
  const name = brief(row.prompt ?? row.id ?? "no prompt");
  const state = row.status === "done" ? size(row) : `${STATUSES[row.status]}, ${row.error.type ?? "no reason"}`;
  return [name, state].filter(Boolean).join(", ");
}

function makePicture(row) {
  const item = byId("tile").content.cloneNode(true).firstElementChild;
  const [image, caption] = item.querySelectorAll("img, .caption");
  const lost = () => item.classList.add("lost");
  item.firstElementChild.dataset.note = row.src ? "The file is missing" : unseen(row);
  image.onload = () => item.classList.add("loaded");
  image.onerror = lost;
  if (row.src) image.src = row.src;
  else lost();
  caption.textContent = brief(row.prompt ?? row.id ?? "");
  return item;
}

function makeProblem(row) {
  const item = byId("problem").content.cloneNode(true).firstElementChild;
  const [badge, charge, what, why, trace] = item.querySelectorAll("b, i, .what, .why, .trace");
  badge.textContent = STATUSES[row.status];
  charge.textContent = CHARGES[row.error.charge] ?? "";
  charge.dataset.charge = row.error.charge ?? "";
  what.textContent = brief(row.prompt ?? row.id ?? "");
  why.textContent = brief(row.error.message ?? row.error.type ?? "No reason is on record.");
  trace.textContent = [row.error.type, row.error.status, row.error.code].filter(Boolean).join(" · ");
  return item;
}

function makeTile(row, index, total, open) {
  const item = row.status === "done" ? makePicture(row) : makeProblem(row);
  const button = item.firstElementChild;
  item.className = `${item.className} ${row.status}`.trim();
  item.ariaSetSize = total;
  item.ariaPosInSet = index + 1;
  button.ariaLabel = describe(row);
  button.onclick = () => open(index);
  return item;
}

/** Show `rows` in `list`; `open` hears of a pressed tile, `onEnd` when the end comes near. */
function openGrid(list, open, onEnd) {
  const tiles = new Map();
  let rows = [];
  let layout = justify([], 1, 1);
  let wanted = 200;
  let queued = false;

  const focused = () => [...tiles].find(([, item]) => item.contains(document.activeElement))?.[0];

  function drop(index) {
    const item = tiles.get(index);
    item.querySelector("img")?.removeAttribute("src"); // ends a download that nobody waits for
    item.remove();
    tiles.delete(index);
  }

  function place(index) {
    const { left, top, width, height } = layout.tiles[index];
    const item = tiles.get(index);
    item.style.transform = `translate(${left}px, ${top}px)`;
    item.style.width = `${width}px`;
    item.style.height = `${height}px`;
  }

  function add(index) {
    const item = makeTile(rows[index], index, rows.length, open);
    const after = [...list.children].find((other) => Number(other.ariaPosInSet) > index + 1);
    list.insertBefore(item, after ?? null); // reading order is the order of rows
    tiles.set(index, item);
    place(index);
  }

  function show() {
    queued = false;
    const above = -list.getBoundingClientRect().top;
    const from = lineAt(layout.lines, above - innerHeight * MARGIN);
    const to = lineAt(layout.lines, above + innerHeight * (1 + MARGIN));
    const first = layout.lines[from]?.first ?? rows.length;
    const end = layout.lines[to]?.end ?? rows.length;
    const kept = focused();
    for (const index of [...tiles.keys()]) if ((index < first || index >= end) && index !== kept) drop(index);
    for (let index = first; index < end; index += 1) if (!tiles.has(index)) add(index);
    if (to >= layout.lines.length - 1) onEnd();
  }

  function queue() {
    if (!queued) requestAnimationFrame(show);
    queued = true;
  }

  /** A tile in the window, the focused one if it is there: what must not move under the reader's eyes. */
  function anchor(above) {
    const focus = layout.tiles[focused()];
    if (focus && focus.top < above + innerHeight && focus.top + focus.height > above) return focused();
    return above > 0 ? layout.lines[lineAt(layout.lines, above)]?.first : undefined;
  }

  function arrange(fresh) {
    const above = -list.getBoundingClientRect().top;
    const index = fresh ? undefined : anchor(above);
    const offset = scrollY - layout.tiles[index]?.top; // read now: a shorter list clamps it
    layout = justify(rows.map(shape), list.clientWidth, wanted);
    list.style.height = `${layout.height}px`;
    for (const shown of tiles.keys()) place(shown);
    if (layout.tiles[index]) scrollTo(0, offset + layout.tiles[index].top);
    queue();
  }

  function focus(index) {
    const tile = layout.tiles[index];
    if (!tile) return;
    if (!tiles.has(index)) add(index);
    tiles.get(index).firstElementChild.focus({ preventScroll: true });
    tiles.get(index).scrollIntoView({ block: "nearest" });
    queue();
  }

  /** The tile of the line above or below whose middle is nearest. */
  function beside(index, lines) {
    const tile = layout.tiles[index];
    const line = layout.lines[lineAt(layout.lines, tile.top + 1) + lines];
    if (!line) return index;
    const middle = tile.left + tile.width / 2;
    const away = (other) => Math.abs(layout.tiles[other].left + layout.tiles[other].width / 2 - middle);
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
    };
    if (!Object.hasOwn(steps, event.key)) return;
    event.preventDefault();
    focus(steps[event.key]());
  });
  addEventListener("scroll", queue, { passive: true });
  addEventListener("resize", queue);
  new ResizeObserver(() => arrange(false)).observe(list.parentElement);

  return {
    focus,
    /** Show other rows; `same` says that those shown so far stay where they are. */
    show(next, same) {
      rows = next;
      if (!same) for (const index of [...tiles.keys()]) drop(index);
      for (const item of tiles.values()) item.ariaSetSize = rows.length;
      arrange(!same);
    },
    resize(height) {
      wanted = height;
      arrange(false);
    },
  };
}
