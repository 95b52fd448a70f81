// The lightbox: one card, large, with all that is known of it and the others of its prompt.

const BESIDE = 24; // pictures of one prompt at once

function facts(card) {
  return [
    ["Id", card.id],
    ...card.own,
    ["Model", card.model],
    ["Ratio", card.aspect_ratio],
    ["Pixels", size(card)],
    ["Bytes", bytes(card.bytes)],
    ["Type", card.media_type],
    ["File", card.file_name],
    ["Created", when(card)],
    ["Charge", card.status !== "done" && (CHARGES[card.charge] ?? "not on record")],
    ["Error", card.error],
    ["Status", card.http_status],
    ["Code", card.code],
    ["Request id", card.request_id],
    ["Idempotency key", card.idempotency_key],
  ].filter(([, value]) => value !== undefined && value !== "" && value !== false);
}

function list(pairs) {
  return pairs.flatMap(([term, value]) => {
    const text = make("dd", "", visible(value));
    text.dir = "auto";
    return [make("dt", "", visible(term)), text];
  });
}

/** Open the dialog's handlers; `shown` gives the chosen cards, `onChange` hears of the open card. */
function openLightbox(cards, stars, shown, { onChange, onClose, onStar }) {
  const dialog = byId("lightbox");
  const picture = byId("picture");
  const copier = byId("copy");
  let card = null;
  let beside = false;

  function trouble(title, text) {
    byId("trouble").hidden = false;
    byId("full").hidden = true;
    byId("trouble-title").textContent = title;
    byId("trouble-text").textContent = visible(text);
  }

  function drawPicture() {
    byId("trouble").hidden = true;
    byId("full").hidden = beside;
    picture.removeAttribute("src");
    if (!card.src) return trouble(unseen(card), card.file_name ?? "");
    picture.alt = name(card);
    picture.src = card.src;
    byId("full").href = card.src;
  }

  function thumbnail(index) {
    const other = cards.card(index);
    const image = make("img", "");
    const button = make("button", "", image);
    button.type = "button";
    button.ariaCurrent = index === card.index;
    button.ariaLabel = describe(other);
    button.onclick = () => {
      beside = false;
      show(index);
    };
    image.alt = "";
    image.loading = "lazy";
    image.onerror = () => button.classList.add("gone");
    if (other.src) image.src = other.src;
    else button.classList.add("gone");
    return button;
  }

  /** Show the pictures of the prompt: small under it, or large side by side. */
  function drawFamily() {
    const family = card.prompt === undefined ? [] : cards.ofPrompt(card.prompt, BESIDE + 1);
    const several = family.length > 1;
    beside &&= several;
    byId("family").hidden = !several;
    byId("together").ariaPressed = beside;
    byId("family-count").textContent =
      family.length > BESIDE ? `The first ${BESIDE} pictures of this prompt` : `${family.length} pictures of this prompt`;
    const few = family.slice(0, BESIDE);
    byId("strip").replaceChildren(...(several && !beside ? few.map(thumbnail) : []));
    byId("beside").hidden = !beside;
    byId("beside").replaceChildren(...(beside ? few.map(thumbnail) : []));
    const { clientWidth, clientHeight } = byId("beside");
    const wide = Math.sqrt((few.length * clientWidth) / (clientHeight || 1) / cards.shapes[card.index]);
    const across = Math.min(few.length, Math.max(1, Math.round(wide)));
    byId("beside").style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
    byId("beside").style.gridTemplateRows = `repeat(${Math.ceil(few.length / across)}, minmax(0, 1fr))`;
  }

  function drawStar() {
    const starred = stars.has(card.key);
    byId("star").ariaPressed = starred;
    byId("star").title = starred ? "Take the star away (s)" : "Star (s)";
  }

  function draw() {
    dialog.dataset.status = card.status;
    if (card.status === "done") drawPicture();
    else trouble(STATUSES[card.status], card.message ?? card.error ?? "No reason is on record.");
    byId("prompt").textContent = visible(card.prompt ?? "No prompt is on record.");
    byId("facts").replaceChildren(...list(facts(card)));
    copier.hidden = card.prompt === undefined;
    byId("save").hidden = !card.src;
    if (card.src) byId("save").href = card.src;
    byId("save").download = (card.file_name ?? "").split("/").at(-1);
    drawStar();
    drawFamily();
    drawPlace();
  }

  /** Where the card stands among those that are chosen now. */
  function drawPlace() {
    const place = shown().indexOf(card.index);
    const last = shown().length - 1;
    byId("position").textContent = place < 0 ? "Not among those chosen" : `${number(place + 1)} of ${number(last + 1)}`;
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place < 0 || place === last;
    for (const near of place < 0 ? [] : [shown()[place + 1], shown()[place - 1]])
      if (near !== undefined) ready(cards.card(near));
  }

  function ready({ src }) {
    if (src) new Image().src = src;
  }

  function show(index) {
    card = cards.card(index);
    byId("prompt").scrollTop = 0;
    draw();
    onChange(card, false);
    if (!dialog.contains(document.activeElement)) byId("close").focus();
  }

  function go(step) {
    const place = shown().indexOf(card.index);
    const index = shown()[place + step];
    if (place < 0 || index === undefined) return;
    const pressed = document.activeElement;
    show(index);
    if (pressed.disabled) byId("close").focus(); // a disabled button would lose the focus to nothing
  }

  function turn() {
    beside = !beside;
    draw();
  }

  picture.onerror = () => trouble(GONE, card.file_name ?? "");
  copier.onclick = () => answer(copier, copy(card.prompt, dialog), "Copied");
  byId("previous").onclick = () => go(-1);
  byId("next").onclick = () => go(1);
  byId("close").onclick = () => dialog.close();
  byId("together").onclick = turn;
  byId("star").onclick = () => onStar(card.key);
  if (location.protocol === "file:") byId("save").title = "A page from disk opens the file: save it from there (d)";
  dialog.onclick = (event) => {
    if (event.target === dialog || event.target.className === "stage") dialog.close();
  };
  dialog.onclose = () => {
    picture.removeAttribute("src");
    byId("beside").replaceChildren();
    onClose(card);
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const keys = {
      ArrowLeft: () => go(-1),
      ArrowRight: () => go(1),
      b: () => byId("family").hidden || turn(),
      c: () => copier.hidden || copier.click(),
      d: () => byId("save").hidden || byId("save").click(),
      s: () => byId("star").click(),
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (Object.hasOwn(keys, key)) keys[key]();
  });

  let start = null;
  dialog.addEventListener("touchstart", ({ touches }) => (start = touches.length === 1 ? touches[0] : null), { passive: true });
  dialog.addEventListener("touchend", ({ changedTouches: [end] }) => {
    const across = start && end.clientX - start.clientX;
    if (start && Math.abs(across) > 60 && Math.abs(across) > 2 * Math.abs(end.clientY - start.clientY)) go(across < 0 ? 1 : -1);
    start = null;
  });

  return {
    open(index) {
      card = cards.card(index);
      beside = false;
      if (!dialog.open) dialog.showModal();
      draw();
      onChange(card, true);
      byId("close").focus();
    },
    close() {
      if (dialog.open) dialog.close();
    },
    refresh() {
      if (dialog.open) drawPlace();
    },
    drawStar() {
      if (dialog.open) drawStar();
    },
  };
}
