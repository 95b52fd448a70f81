// What the reader chose, kept in the address: it survives a reload and can be sent to someone.

const NO_CHOICE = Object.freeze({ q: "", status: "", ratio: "", order: "batch", starred: "", reason: "" });
const chosen = (field, value) => value.trim() !== (NO_CHOICE[field] ?? ""); // a user's column: any value

/** The choice of an address and the key of the card that it opens, "" if none. */
function readAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const choice = { ...NO_CHOICE };
  for (const [field, value] of fields) if (Object.hasOwn(NO_CHOICE, field) || field.startsWith("in.")) choice[field] = value;
  return { choice, open: fields.get("open") ?? "" };
}

/** Put a choice and an open card into the address; `push` lets the browser's Back undo it. */
function writeAddress(choice, open, push) {
  const fields = new URLSearchParams();
  for (const [field, value] of Object.entries(choice)) if (chosen(field, value)) fields.set(field, value);
  if (open) fields.set("open", open);
  const hash = `#${fields}`;
  if (hash === (location.hash || "#")) return;
  try {
    history[push ? "pushState" : "replaceState"](null, "", hash === "#" ? location.pathname + location.search : hash);
  } catch {} // a browser may refuse so many changes in so short a time
}
