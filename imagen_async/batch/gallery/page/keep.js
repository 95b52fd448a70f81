// What the browser keeps of a reader's wishes; it may keep nothing for pages from disk.

const keep = (name, value) => {
  try {
    localStorage.setItem(`imagen-gallery-${name}`, value);
    return true;
  } catch {
    return false;
  }
};
const kept = (name) => {
  try {
    return localStorage.getItem(`imagen-gallery-${name}`);
  } catch {
    return null;
  }
};

/** The starred cards of this page, by their keys; `onChange` hears of each change. */
function openStars(onChange) {
  const place = `stars ${location.pathname}`; // pages from disk share one store
  const keys = new Set();
  const read = () => {
    try {
      const found = JSON.parse(kept(place));
      keys.clear();
      for (const key of Array.isArray(found) ? found : []) keys.add(String(key));
    } catch {} // someone else's value
  };
  const write = () => {
    stars.lasting = keep(place, JSON.stringify([...keys]));
    onChange();
  };
  const stars = {
    lasting: true,
    count: () => keys.size,
    has: (key) => keys.has(key),
    toggle(key) {
      if (!keys.delete(key)) keys.add(key);
      write();
    },
    clear() {
      keys.clear();
      write();
    },
  };
  read();
  addEventListener("storage", (event) => {
    if (!event.key?.endsWith(place)) return;
    read();
    onChange();
  });
  return stars;
}
