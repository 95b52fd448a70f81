// The rows: brought page by page, each page a script, and chosen by words and filters.

const manifest = JSON.parse(byId("manifest").textContent);
const ORDERS = {
  newest: (a, b) => (time(b) || 0) - (time(a) || 0) || a.place - b.place,
  prompt: (a, b) => compare(a.prompt ?? "", b.prompt ?? "") || a.place - b.place,
  largest: (a, b) => (b.width * b.height || 0) - (a.width * a.height || 0) || a.place - b.place,
};
const compare = new Intl.Collator(undefined, { numeric: true }).compare;
const ADDRESS = /^gallery\/[0-9a-f]{16}\/page-\d+\.js$/;

// Only an address of our own pages becomes a script.
const checked = (address) => {
  if (!ADDRESS.test(address)) throw new TypeError(`not a page of this gallery: ${address}`);
  return address;
};
const policy = window.trustedTypes?.createPolicy("gallery", { createScriptURL: checked });
const script = policy ? (address) => policy.createScriptURL(address) : checked;

/** The rows that came so far; `onPage` hears of each page, `want` asks for the first `pages` pages. */
function openRows(onPage) {
  const rows = [];
  const missing = [];
  let wanted = 0;
  let settled = 0;
  let busy = false;

  window.gallery = Object.freeze({
    page(_, brought) {
      for (const row of brought) {
        const texts = [row.prompt, row.id, row.model, row.file_name, row.error?.message, row.error?.type];
        rows.push({ ...row, place: rows.length, folded: fold(texts.filter(Boolean).join("\n")) });
      }
    },
  });

  function pump() {
    if (busy || settled >= Math.min(wanted, manifest.pages.length)) return;
    busy = true;
    const element = document.createElement("script");
    const end = () => {
      element.remove();
      busy = false;
      settled += 1;
      onPage();
      pump(); // one page a task: typing and scrolling come in between
    };
    element.onload = end;
    element.onerror = () => {
      missing.push(manifest.pages[settled]);
      end();
    };
    element.src = script(manifest.pages[settled]);
    document.head.append(element);
  }

  return {
    rows,
    missing,
    settled: () => settled,
    complete: () => settled === manifest.pages.length,
    want(pages) {
      wanted = Math.max(wanted, pages);
      pump();
    },
  };
}

const NO_CHOICE = { query: "", status: "", ratio: "", order: "batch" };
const words = (query) => fold(query).split(/\s+/).filter(Boolean);
const holds = (row, sought) => sought.every((word) => row.folded.includes(word));

/** The rows that a choice shows, in its order. */
function chosen(rows, choice) {
  const sought = words(choice.query);
  const kept = rows.filter(
    (row) =>
      (!choice.status || row.status === choice.status) &&
      (!choice.ratio || row.ratio === choice.ratio) &&
      holds(row, sought),
  );
  return choice.order in ORDERS ? kept.sort(ORDERS[choice.order]) : kept;
}

/** How many rows each filter would show: known from the start, and counted when words narrow them. */
function tally(rows, choice) {
  const table = { statuses: {}, ratios: {}, total: 0 };
  const add = (status, ratio, count) => {
    if (!choice.ratio || choice.ratio === ratio) table.statuses[status] = (table.statuses[status] ?? 0) + count;
    if (!choice.status || choice.status === status) table.ratios[ratio] = (table.ratios[ratio] ?? 0) + count;
    if ((!choice.ratio || choice.ratio === ratio) && (!choice.status || choice.status === status)) table.total += count;
  };
  const sought = words(choice.query);
  if (sought.length) {
    for (const row of rows) if (holds(row, sought)) add(row.status, row.ratio, 1);
  } else {
    for (const [status, ratios] of Object.entries(manifest.counts))
      for (const [ratio, count] of Object.entries(ratios)) add(status, ratio, count);
  }
  return table;
}
