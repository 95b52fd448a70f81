// The lightbox: one row, large, with all that is known of it.

function facts(row) {
  const error = row.error ?? {};
  return [
    ["Id", row.id],
    ["Model", row.model],
    ["Ratio", row.aspect_ratio],
    ["Pixels", size(row)],
    ["Bytes", bytes(row.bytes)],
    ["Type", row.media_type],
    ["File", row.file_name],
    ["Created", when(row)],
    ["Charge", row.error && (CHARGES[error.charge] ?? "not on record")],
    ["Error", error.type],
    ["Status", error.status],
    ["Code", error.code],
    ["Request id", row.request_id ?? error.request_id],
    ["Idempotency key", error.idempotency_key],
  ].filter(([, value]) => value !== undefined && value !== "");
}

function list(pairs) {
  return pairs.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    text.dir = "auto";
    return [term, text];
  });
}

/** Open the dialog's handlers; `rows` gives the shown rows, `total` their number, `onClose` the last index. */
function openLightbox(rows, total, want, onClose) {
  const dialog = byId("lightbox");
  const picture = byId("picture");
  const copier = byId("copy");
  let current = 0;
  let reset = 0;

  function trouble(title, text) {
    byId("trouble").hidden = false;
    byId("full").hidden = true;
    byId("trouble-title").textContent = title;
    byId("trouble-text").textContent = text;
  }

  function drawPicture(row) {
    byId("trouble").hidden = true;
    byId("full").hidden = false;
    picture.removeAttribute("src");
    if (!row.src) return trouble(unseen(row), row.file_name ?? "");
    picture.alt = row.prompt ?? "";
    picture.src = row.src;
    byId("full").href = row.src;
  }

  function draw() {
    const row = rows()[current];
    const none = "No reason is on record.";
    dialog.dataset.status = row.status;
    if (row.status === "done") drawPicture(row);
    else trouble(STATUSES[row.status], row.error.message ?? row.error.type ?? none);
    byId("position").textContent = `${number(current + 1)} of ${number(total())}`;
    byId("prompt").textContent = row.prompt ?? "No prompt is on record.";
    byId("prompt").scrollTop = 0;
    byId("facts").replaceChildren(...list(facts(row)));
    byId("previous").disabled = current === 0;
    byId("next").disabled = current >= rows().length - 1;
    copier.hidden = row.prompt === undefined;
    settle("Copy prompt");
    ready(rows()[current + 1]);
    ready(rows()[current - 1]);
    if (current + 2 >= rows().length) want();
  }

  function ready(row) {
    if (row?.src) new Image().src = row.src;
  }

  function settle(text) {
    clearTimeout(reset);
    copier.textContent = text;
    copier.classList.toggle("copied", text === "Copied");
  }

  function go(step) {
    const index = current + step;
    if (!rows()[index]) return;
    const pressed = document.activeElement;
    current = index;
    draw();
    if (pressed.disabled) byId("close").focus(); // a disabled button would lose the focus to nothing
  }

  picture.onerror = () => trouble("The file is missing", rows()[current].file_name ?? "");
  copier.onclick = async () => {
    settle((await copy(rows()[current].prompt, dialog)) ? "Copied" : "Press Ctrl+C: the browser refused");
    reset = setTimeout(() => settle("Copy prompt"), 1600);
  };
  byId("previous").onclick = () => go(-1);
  byId("next").onclick = () => go(1);
  byId("close").onclick = () => dialog.close();
  dialog.onclick = (event) => {
    if (event.target === dialog || event.target.className === "stage") dialog.close();
  };
  dialog.onclose = () => {
    picture.removeAttribute("src");
    onClose(current);
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "ArrowRight") go(1);
    else if (event.key.toLowerCase() === "c" && !copier.hidden) copier.click();
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
      current = index;
      draw();
      dialog.showModal();
      byId("close").focus();
    },
    refresh() {
      if (dialog.open) draw();
    },
  };
}
