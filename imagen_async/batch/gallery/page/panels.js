// What stands above the grid: the summary, the filters, the reasons of failures, the starred.

const REASONS = 8; // shown; the others are one line

function chip(label, count, pressed, press) {
  const badge = make("span", "", number(count ?? 0));
  const button = make("button", count ? "" : "none", ...label, badge);
  button.type = "button";
  button.ariaPressed = pressed;
  button.onclick = press;
  return button;
}

/** A small rectangle of the ratio itself. */
function glyph(ratio) {
  const [across, down] = ratio.split(":").map(Number);
  if (!(across / down > 0)) return [];
  const drawing = make("i", "");
  drawing.style.width = `${Math.min(15, 15 * Math.min(1, across / down))}px`;
  drawing.style.height = `${15 / Math.max(1, across / down)}px`;
  return [drawing];
}

/** Put buttons in the place of others; the focus stays where it was. */
function replace(parent, children) {
  const active = [...parent.querySelectorAll("button")].indexOf(document.activeElement);
  parent.replaceChildren(...children);
  if (active >= 0) parent.querySelectorAll("button")[active]?.focus();
}

function sums(counts, choice) {
  const table = { statuses: Object.create(null), ratios: Object.create(null) };
  for (const [status, ratios] of Object.entries(counts))
    for (const [ratio, count] of Object.entries(ratios)) {
      if (!choice.ratio || choice.ratio === ratio) table.statuses[status] = (table.statuses[status] ?? 0) + count;
      if (!choice.status || choice.status === status) table.ratios[ratio] = (table.ratios[ratio] ?? 0) + count;
    }
  return table;
}

/** Draw the filters; `counts` are those beside the choice, `everything` those of the whole batch. */
function drawFilters(counts, everything, choice, choose) {
  const now = sums(counts, choice);
  const all = sums(everything, NO_CHOICE);
  const group = (id, field, names, label) => {
    const present = names.filter((one) => one && (all[id][one] || now[id][one]));
    const press = (one) => () => choose({ [field]: choice[field] === one ? "" : one });
    const chips = present.map((one) => chip(label(one), now[id][one], choice[field] === one, press(one)));
    replace(byId(id), present.length > 1 || choice[field] ? chips : []);
  };
  group("statuses", "status", Object.keys(STATUSES), (status) => [make("em", status), STATUSES[status]]);
  const ratios = Object.keys(all.ratios).sort((a, b) => all.ratios[b] - all.ratios[a]);
  group("ratios", "ratio", ratios, (ratio) => [...glyph(ratio), ratio]);
}

/** Draw one menu for each of the user's columns that has few values; one to which none came stays as it is. */
function drawColumns(choice, choose) {
  const few = (own) => VALUES[own] && (Object.keys(VALUES[own]).length > 1 || choice[`in.${own}`]);
  const known = new Map([...byId("columns").children].map((menu) => [menu.name, menu]));
  const menus = OWN.filter(few).map((own) => {
    const menu = known.get(`in.${own}`) ?? make("select", "");
    const sorted = Object.keys(VALUES[own]).sort(compare);
    if (menu.length === sorted.length + 1) return menu;
    menu.name = `in.${own}`;
    menu.ariaLabel = visible(own);
    const counted = (value) => (manifest.live ? "" : ` (${number(VALUES[own][value])})`);
    const options = sorted.map((value) => new Option(brief(value).slice(0, 60) + counted(value), value));
    menu.replaceChildren(new Option(`${visible(own)}: any`, ""), ...options);
    menu.value = choice[menu.name] ?? "";
    menu.onchange = () => choose({ [menu.name]: menu.value });
    return menu;
  });
  if (menus.some((menu, at) => byId("columns").children[at] !== menu) || menus.length !== known.size)
    byId("columns").replaceChildren(...menus);
  if (OWN.length) byId("columns-help").textContent = `Search one of your columns with its name: ${visible(OWN[0])}:value`;
}

const added = (ratios) => Object.values(ratios ?? {}).reduce((a, b) => a + b, 0);

/** How many rows of a status's list the page does not hold; the page of a run that goes on takes all. */
const leftOut = (status) => (manifest.live ? 0 : Math.max(0, (manifest.listed[status] ?? 0) - added(manifest.counts[status])));

function drawSummary(everything) {
  const { report } = manifest;
  const sum = (status) => added(everything[status]) + leftOut(status);
  const parts = [plural(sum("done"), "picture")];
  if (sum("failed")) parts.push(`${number(sum("failed"))} failed`);
  if (sum("unknown")) parts.push(`${number(sum("unknown"))} unknown`);
  if (report.pending > 0) parts.push(`${number(report.pending)} pending`);
  if (report.seconds > 0) parts.push(duration(report.seconds));
  if (report.cost > 0) parts.push(`at most ${report.cost.toLocaleString("en", { maximumFractionDigits: 2 })} spent`);
  if (report.stopped_by) parts.push(`stopped by ${visible(report.stopped_by)}`);
  byId("summary").textContent = parts.join(" · ");
}

/** Say what the reader must know before anything else: a run that was killed, or goes on. */
function drawNotice() {
  const doubts = manifest.in_doubt;
  const are = doubts === 1 ? "is" : "are";
  const texts = [];
  if (doubts)
    texts.push(
      `The run was killed while ${plural(doubts, "request")} ${doubts === 1 ? "was" : "were"} under way and may have been ` +
        `charged; ${doubts === 1 ? "it" : "they"} ${are} shown as Unknown. The same command, run again, takes up what ` +
        "arrived and sends what was never sent; it buys none of these again by itself.",
    );
  if (manifest.phase === "interrupted")
    texts.push("The run was interrupted; what came last may not be shown. The same command goes on with it and ends with a whole page.");
  if (manifest.phase === "running" && !manifest.live) texts.push("A run was going on when this page was written; it writes the page anew every now and then: reload it to see more.");
  for (const status of Object.keys(STATUSES).filter(leftOut)) {
    const [shown, what] = [added(manifest.counts[status]), status === "done" ? "pictures" : `${status} items`];
    const which = manifest.phase ? "latest" : "first";
    texts.push(`Shown are the ${which} ${number(shown)} of ${number(shown + leftOut(status))} ${what}; the batch's lists name all.`);
  }
  byId("notice").hidden = !texts.length;
  byId("notice").textContent = texts.join(" ");
}

/** A shell's command that tries the cards of one reason again; null if none can be told safely. */
function retry(card, groups) {
  const [list, again] = [manifest.lists[card.status], manifest.retry[card.status]];
  if (!again || (card.status === "unknown" && manifest.in_doubt)) return null;
  if (groups === 1) return `cp ${list} retry.jsonl && ${again}`;
  const parts = [`"type": ${JSON.stringify(card.error ?? null)}`, `"code": ${JSON.stringify(card.code ?? null)}`];
  parts.push(`"status": ${JSON.stringify(card.http_status ?? null)}`);
  // What a shell or a terminal could take for its own is not put into a command.
  if (!parts.every((part) => /^[ !#-&(-[\]-~"]*$/.test(part))) return null;
  const [first, ...others] = parts.map((part) => `grep -F '${part}'`);
  return `${[`${first} ${list}`, ...others].join(" | ")} > retry.jsonl && ${again}`;
}

function reasonLine(group, groups, cards, choice, choose) {
  const card = cards.card(group.first);
  const pressed = choice.reason === group.reason;
  const label = make("span", "why", brief(card.message ?? "No reason is on record."));
  label.dir = "auto";
  const button = chip([make("b", "", visible(group.reason || "no reason"))], group.count, pressed, () =>
    choose({ reason: pressed ? "" : group.reason }),
  );
  const charges = [...group.charges].map((charge) => CHARGES[charge] ?? "charge not on record").join(", ");
  const line = make("li", "", button, label, make("i", "", charges));
  const command = retry(card, groups);
  if (command) {
    const code = make("code", "", command);
    const copier = make("button", "plain", "Copy command");
    code.tabIndex = 0;
    copier.type = "button";
    copier.onclick = () => answer(copier, copy(command), "Copied");
    line.append(make("div", "command", code, copier));
  }
  return line;
}

/** Draw the reasons of the problems that are chosen, each with the command that tries them again. */
function drawReasons(cards, choice, choose) {
  const wanted = choice.status === "failed" || choice.status === "unknown";
  const groups = wanted ? cards.reasons(choice.status) : [];
  const lines = groups.slice(0, REASONS).map((group) => reasonLine(group, groups.length, cards, choice, choose));
  const rest = groups.slice(REASONS).reduce((sum, group) => sum + group.count, 0);
  if (rest) lines.push(make("li", "", `${number(rest)} more for ${plural(groups.length - REASONS, "other reason")}`));
  byId("reasons").hidden = !groups.length;
  replace(byId("reason-list"), lines);
}

/** Draw what can be done with the starred cards. */
function drawStars(stars, choice) {
  byId("starred").ariaPressed = choice.starred !== "";
  byId("starred").hidden = !stars.count() && !choice.starred;
  byId("starred-count").textContent = number(stars.count());
  byId("exports").hidden = !choice.starred || !stars.count();
  byId("lasting").hidden = stars.lasting;
}

/** The starred cards as a list of file names, or with all that the page knows of each. */
function exported(cards, indices, kind) {
  const all = indices.map((index) => cards.card(index));
  if (kind === "list") return all.map((card) => `${card.key}\n`).join("");
  const plain = ({ own, index: _, key: __, src: ___, source: ____, ratio: _____, reason: ______, ...card }) => ({
    ...card,
    ...(own.length ? { columns: Object.fromEntries(own) } : {}),
  });
  return all.map((card) => `${JSON.stringify(plain(card))}\n`).join("");
}
