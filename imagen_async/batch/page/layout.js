// Where tiles lie. Pure: ratios in, places out.

const GAP = 10;
const NARROWEST = 0.4;
const WIDEST = 3.2;
const PROBLEM_RATIO = 1.5;

/** Width over height of a row's tile: the file's, else the asked one's; a problem is a card of text. */
function shape(row) {
  if (row.status !== "done") return PROBLEM_RATIO;
  const [across, down] = row.width && row.height ? [row.width, row.height] : row.ratio.split(":").map(Number);
  const ratio = across / down;
  return ratio > 0 ? Math.min(WIDEST, Math.max(NARROWEST, ratio)) : 1;
}

/**
 * Lay tiles out in lines that fill the width, each tile in its own ratio.
 * A line breaks where its height comes nearest to the wanted one; the last is not stretched.
 */
function justify(ratios, width, wanted) {
  const tiles = [];
  const lines = [];
  let first = 0;
  let sum = 0;
  let top = 0;
  const heightOf = (count, total) => (width - GAP * (count - 1)) / total;
  const close = (end, height) => {
    let left = 0;
    for (let index = first; index < end; index += 1) {
      tiles.push({ left, top, width: ratios[index] * height, height });
      left += ratios[index] * height + GAP;
    }
    lines.push({ first, end, top, height });
    top += height + GAP;
    first = end;
    sum = 0;
  };
  ratios.forEach((ratio, index) => {
    const before = index > first ? heightOf(index - first, sum) : Infinity;
    const after = heightOf(index - first + 1, sum + ratio);
    if (after < wanted && before / wanted < wanted / after) close(index, before);
    sum += ratio;
    const height = heightOf(index - first + 1, sum);
    if (height <= wanted) close(index + 1, height);
  });
  if (first < ratios.length) close(ratios.length, Math.min(wanted, heightOf(ratios.length - first, sum)));
  return { tiles, lines, height: Math.max(0, top - GAP) };
}

/** The first line whose lower edge lies below a height. */
function lineAt(lines, y) {
  let low = 0;
  let high = lines.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lines[middle].top + lines[middle].height < y) low = middle + 1;
    else high = middle;
  }
  return low;
}
