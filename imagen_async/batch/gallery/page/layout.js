// Where tiles lie. Pure: shapes in, lines out.

const GAP = 10;
const CAPTION = 50; // pixels under a picture for two lines of its prompt
const NARROWEST = 0.4;
const WIDEST = 3.2;
const PROBLEM_RATIO = 1.5;
const TALLEST = 12e6; // pixels: browsers end an element somewhere above

/** Width over height of a tile: the file's, else the asked one's; a problem is a card of text. */
function shapeOf(status, width, height, ratio) {
  if (status !== "done") return PROBLEM_RATIO;
  const [across, down] = width && height ? [width, height] : (ratio ?? "").split(":").map(Number);
  return across / down > 0 ? Math.min(WIDEST, Math.max(NARROWEST, across / down)) : 1;
}

/**
 * Lay the shown cards out in lines that fill the width, each tile in its own ratio.
 * A line breaks where its height comes nearest to the wanted one; the last is not stretched.
 */
function justify(shown, shapes, width, wanted, below) {
  const lines = [];
  let first = 0;
  let sum = 0;
  let top = 0;
  const heightOf = (count, total) => (width - GAP * (count - 1)) / total;
  const close = (end, height) => {
    lines.push({ first, end, top, height, below });
    top += height + below + GAP;
    first = end;
    sum = 0;
  };
  for (let index = 0; index < shown.length; index += 1) {
    const ratio = shapes[shown[index]];
    const before = index > first ? heightOf(index - first, sum) : Infinity;
    const after = heightOf(index - first + 1, sum + ratio);
    if (after < wanted && before / wanted < wanted / after) close(index, before);
    sum += ratio;
    const height = heightOf(index - first + 1, sum);
    if (height <= wanted) close(index + 1, height);
  }
  if (first < shown.length) close(shown.length, Math.min(wanted, heightOf(shown.length - first, sum)));
  const height = Math.max(0, top - GAP);
  return height > TALLEST && wanted > 40 ? justify(shown, shapes, width, wanted * 0.8, below) : { shown, shapes, lines, height };
}

/** The first line whose lower edge lies below a height. */
function lineAt(lines, y) {
  return firstOf(lines, (line) => line.top + line.height + line.below >= y);
}

/** The line that holds a tile. */
const lineOf = (lines, index) => lines[firstOf(lines, (line) => line.end > index)];

/** The first of sorted things that passes; their number if none does. */
function firstOf(things, passes) {
  let low = 0;
  let high = things.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (passes(things[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** A tile's place. */
function tileAt({ shown, shapes, lines }, index) {
  const line = lineOf(lines, index);
  if (!line) return undefined;
  let left = 0;
  for (let other = line.first; other < index; other += 1) left += shapes[shown[other]] * line.height + GAP;
  return { left, top: line.top, width: shapes[shown[index]] * line.height, height: line.height + line.below };
}
