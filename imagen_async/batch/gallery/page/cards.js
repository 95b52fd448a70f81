// The cards: brought page by page, kept by columns, and looked through for what a reader seeks.

const manifest = JSON.parse(byId("manifest").textContent);
// The user's columns, whose names in a page begin with "in.", and how many cards have which of their values; null where
// the values are many.
const VALUES = Object.assign(Object.create(null), manifest.columns);
const OWN = Object.keys(VALUES);
const ADDRESS = /^gallery\/[0-9a-f]{16}\/page-\d+\.js$/;
const SOUGHT = ["prompt", "id", "model", "message", "error", "code"]; // and files' names, by words like theirs

// Only an address of our own pages becomes a script.
const checked = (address) => {
  if (!ADDRESS.test(address)) throw new TypeError(`not a page of this gallery: ${address}`);
  return address;
};
const policy = window.trustedTypes?.createPolicy("gallery", { createScriptURL: checked });
const script = policy ? (address) => policy.createScriptURL(address) : checked;

// Before each value of a user's column stands a control character of its own, so that
// "style:ink" is sought as one word, in that column alone.
const mark = (column) => String.fromCharCode(14 + column);
const needles = (query) =>
  query
    .split(/\s+/)
    .filter(Boolean)
    .map((word) => {
      const folded = fold(word);
      const column = OWN.findIndex((own) => folded.startsWith(`${fold(own)}:`));
      if (column < 0) return { word: /[\d./_-]/.test(word) ? word : null, folded };
      return { word: null, folded: mark(column) + folded.slice(fold(OWN[column]).length + 1) };
    });

const ORDERS = {
  newest: (value) => time(value("created")) || -Infinity,
  largest: (value) => value("width") * value("height"),
  prompt: (value) => fold(value("prompt") ?? ""),
};
const compare = new Intl.Collator(undefined, { numeric: true }).compare;
const MANY = 20_000; // texts that are not compared as a language does: it would take seconds
const sooner = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const holds = ({ word, folded }, text, files, index) =>
  text.includes(folded) || (word !== null && files !== undefined && (valueAt(files, index)?.includes(word) ?? false));

/** A column as it came: values, or `of` and `at`, made small. */
function unpack(column) {
  if (Array.isArray(column)) return column;
  return { of: column.of, at: column.at.length ? Uint16Array.from(column.at) : null };
}

function valueAt(column, index) {
  if (column === undefined) return null;
  return column.of ? column.of[column.at ? column.at[index] : 0] : column[index];
}

function count(table, status, ratio, cards) {
  table[status] ??= Object.create(null);
  table[status][ratio] = (table[status][ratio] ?? 0) + cards;
}

/** What a card is known by: in the address, and among the starred. */
const keyAt = ({ file_name: file, id }, index, start) => valueAt(file, index) ?? valueAt(id, index) ?? `${start + index}`;

/** A test for one value of a field in a page; null if no card of the page has it. */
function tester(column, value) {
  if (column === undefined) return null;
  if (!column.of) return (index) => column[index] === value;
  const code = column.of.indexOf(value);
  if (code < 0) return null;
  return column.at ? (index) => column.at[index] === code : () => true;
}

/** Count the user's columns of a page that came while a run goes on; it is bounded as that of plain files is. */
function countOwn(columns, rows) {
  for (const field of Object.keys(columns).filter((name) => name.startsWith("in."))) {
    const own = field.slice(3);
    if (!(own in VALUES)) {
      if (OWN.push(own) > 16) return OWN.pop();
      VALUES[own] = Object.create(null);
    }
    for (let index = 0; index < rows && VALUES[own]; index += 1) {
      const value = valueAt(columns[field], index);
      if (value !== null) VALUES[own][value] = (VALUES[own][value] ?? 0) + 1;
      if (Object.keys(VALUES[own]).length > 24) VALUES[own] = null;
    }
  }
}

/** The cards that came so far; `onPage` hears of each page. */
function openCards(onPage) {
  const pages = [];
  const shapes = [];
  const counts = Object.create(null); // status -> ratio -> cards
  const missing = [];
  const orders = new Map();
  let settled = 0;

  const complete = () => settled === manifest.pages.length;
  const pageOf = (index) => pages[firstOf(pages, (page) => page.start + page.rows > index)];
  const read = (index, field) => {
    const page = pageOf(index);
    return valueAt(page.columns[field], index - page.start);
  };

  function foldAll(columns, rows) {
    const sought = SOUGHT.filter((field) => field in columns).map((field) => ["", columns[field]]);
    OWN.forEach((own, at) => `in.${own}` in columns && sought.push([mark(at), columns[`in.${own}`]]));
    return Array.from({ length: rows }, (_, index) => {
      let text = "";
      for (const [before, column] of sought) {
        const value = valueAt(column, index);
        if (value !== null) text += `${before}${fold(value)}\n`;
      }
      return text;
    });
  }

  /** Why each card of a page is a problem: its kind, the answer's status and the gateway's code. */
  const reasons = ({ error, http_status: status, code }, rows) =>
    Array.from({ length: rows }, (_, index) =>
      [error, status, code].map((column) => valueAt(column, index)).filter((value) => value !== null).join(" · "),
    );

  window.gallery = Object.freeze({
    /** Take cards: from a page's script, or as they come while a run goes on. */
    page({ rows, columns: packed }) {
      const columns = Object.create(null);
      for (const field of Object.keys(packed)) columns[field] = unpack(packed[field]);
      if (manifest.live) countOwn(columns, rows);
      if (columns.status.of?.length !== 1 || columns.status.of[0] !== "done") columns.reason = reasons(columns, rows);
      const kinds = []; // the pairs of status and ratio in this page
      const kindAt = new Uint16Array(rows);
      pages.push({ start: shapes.length, rows, columns, folded: foldAll(columns, rows), kinds, kindAt });
      for (let index = 0; index < rows; index += 1) {
        const value = (field) => valueAt(columns[field], index);
        const [status, ratio] = [value("status"), value("ratio")];
        const known = kinds.findIndex((kind) => kind.status === status && kind.ratio === ratio);
        kindAt[index] = known < 0 ? kinds.push({ status, ratio }) - 1 : known;
        shapes.push(shapeOf(status, value("width"), value("height"), ratio));
        count(counts, status, ratio, 1);
      }
      orders.clear();
      if (complete()) onPage(); // else the script that brought them ends a moment later
    },
  });

  function bring() {
    if (complete()) return;
    const element = document.createElement("script");
    const end = () => {
      element.remove();
      settled += 1;
      onPage();
      setTimeout(bring); // one page a task: typing and scrolling come in between
    };
    element.onload = end;
    element.onerror = () => {
      missing.push(manifest.pages[settled]);
      end();
    };
    element.src = script(manifest.pages[settled]);
    document.head.append(element);
  }

  /** All cards in an order. */
  function ordered(order) {
    if (!orders.has(order)) {
      const keys = shapes.map((_, index) => ORDERS[order]((field) => read(index, field)));
      const differ = order !== "prompt" ? (a, b) => b - a : keys.length > MANY ? sooner : compare;
      const places = Array.from(keys.keys());
      orders.set(order, places.sort((a, b) => differ(keys[a], keys[b]) || a - b));
    }
    return orders.get(order);
  }

  return {
    counts,
    missing,
    shapes,
    bring,
    size: () => shapes.length,
    complete,

    /** Everything that is known of one card. */
    card(index) {
      const page = pageOf(index);
      const card = { index, own: [] };
      for (const field of Object.keys(page.columns)) {
        const value = valueAt(page.columns[field], index - page.start);
        if (value === null) continue;
        if (field.startsWith("in.")) card.own.push([field.slice(3), value]);
        else card[field] = value;
      }
      card.key = keyAt(page.columns, index - page.start, page.start);
      if (card.source) card.src = card.file_name.split("/").map(encodeURIComponent).join("/");
      return card;
    },

    /** The card of a key, -1 if it has not come. */
    find(key) {
      for (const { start, rows, columns } of pages)
        for (let index = 0; index < rows; index += 1)
          if (keyAt(columns, index, start) === key) return start + index;
      return -1;
    },

    /** The pictures of a prompt, at most `most`. */
    ofPrompt(prompt, most) {
      const found = [];
      for (const { start, rows, columns } of pages) {
        const [same, done] = [tester(columns.prompt, prompt), tester(columns.status, "done")];
        if (!same || !done) continue;
        for (let index = 0; index < rows && found.length < most; index += 1)
          if (same(index) && done(index)) found.push(start + index);
      }
      return found;
    },

    /** What a choice shows, in its order, and how many each status and ratio has beside the choice of them. */
    select(choice, starred) {
      const sought = needles(choice.q);
      const fields = Object.keys(choice).filter((field) => choice[field] && (field === "reason" || field.startsWith("in.")));
      const chosen = new Uint8Array(shapes.length);
      const beside = Object.create(null);
      const found = [];
      for (const { start, rows, columns, folded, kinds, kindAt } of pages) {
        const tests = fields.map((field) => tester(columns[field], choice[field]));
        if (tests.includes(null)) continue;
        for (const needle of sought) tests.push((index) => holds(needle, folded[index], columns.file_name, index));
        if (starred) tests.push((index) => starred(keyAt(columns, index, start)));
        const wanted = kinds.map(
          ({ status, ratio }) => (!choice.status || choice.status === status) && (!choice.ratio || choice.ratio === ratio),
        );
        const tally = new Uint32Array(kinds.length);
        rows: for (let index = 0; index < rows; index += 1) {
          for (let at = 0; at < tests.length; at += 1) if (!tests[at](index)) continue rows;
          tally[kindAt[index]] += 1;
          if (!wanted[kindAt[index]]) continue;
          found.push(start + index);
          chosen[start + index] = 1;
        }
        kinds.forEach(({ status, ratio }, kind) => tally[kind] && count(beside, status, ratio, tally[kind]));
      }
      const turned = Object.hasOwn(ORDERS, choice.order) && complete();
      return { counts: beside, found: turned ? ordered(choice.order).filter((index) => chosen[index]) : found };
    },

    /** The problems of a status by their reasons, the most frequent first. */
    reasons(status) {
      const groups = new Map();
      for (const { start, rows, columns } of pages) {
        const test = tester(columns.status, status);
        if (!test) continue;
        for (let index = 0; index < rows; index += 1) {
          if (!test(index)) continue;
          const reason = columns.reason[index];
          if (!groups.has(reason)) groups.set(reason, { reason, count: 0, charges: new Set(), first: start + index });
          groups.get(reason).count += 1;
          groups.get(reason).charges.add(valueAt(columns.charge, index));
        }
      }
      return [...groups.values()].sort((a, b) => b.count - a.count);
    },
  };
}
