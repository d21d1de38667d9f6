// What the rows of a run say; a row is [frame, target, score, state, x, y, w, h, seconds], rows are in the order of their frames.
import { STATES, band, node, stretches, targetColour, targetDashes } from "./plot.js";

export const numbersOf = (rows) => [...new Set(rows.map((row) => row[1]))].sort();

export function rowOf(rows, number, frame) {
  let low = 0, high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle][0] < frame) low = middle + 1;
    else high = middle;
  }
  for (; low < rows.length && rows[low][0] === frame; low++) if (rows[low][1] === number) return rows[low];
  return null;
}

// The seconds of the frames from the first one on. A video need not have them at even distances.
export function timesOf(rows) {
  const times = [];
  for (const row of rows) if (times.length === row[0] - rows[0][0]) times.push(row[8]);
  return times;
}

// The last frame that is due at some seconds after the first one, as a position among them.
export function dueAt(times, seconds) {
  let low = 0, high = times.length; // players round times to a thousandth
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] - times[0] <= seconds + 6e-4) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

// The first frames of the stretches on which a target is uncertain or lost, in order.
export function doubts(rows) {
  const begins = new Set();
  for (const number of numbersOf(rows)) {
    const mine = rows.filter((row) => row[1] === number);
    let sure = true;
    for (const [state, from] of stretches(mine)) {
      const doubtful = state === "uncertain" || state === "lost";
      if (doubtful && sure) begins.add(mine[from][0]);
      sure = !doubtful;
    }
  }
  return [...begins].sort((a, b) => a - b);
}

// A bar of the shares of the states of a target, and the same in words.
export function shareOf(rows, target, name) {
  const mine = rows.filter((row) => row[1] === target), item = document.createElement("div");
  const bar = node("svg", { viewBox: "0 0 300 14", preserveAspectRatio: "none", "aria-hidden": "true" });
  const words = Object.assign(document.createElement("div"), { className: "words" }), texts = [];
  let x = 0;
  for (const state of STATES) {
    const count = mine.filter((row) => row[3] === state).length, width = (300 * count) / mine.length;
    if (!count) continue;
    bar.append(...band(state, x, 0, width, 14));
    x += width;
    texts.push(`${state} ${count}`);
  }
  words.textContent = `${name}: ${texts.join(", ")}`;
  item.append(bar, words);
  return item;
}

// What stands for a target in the plot.
export function keyOf(name, index) {
  const item = document.createElement("li"), icon = node("svg", { viewBox: "0 0 20 11", "aria-hidden": "true" });
  icon.append(node("path", { d: "M0 5.5H20", "stroke-width": 3, "stroke-dasharray": targetDashes(index + 1) }));
  icon.style.stroke = targetColour(index + 1);
  item.append(icon, name);
  return item;
}

export function readout(rows, frame, seconds, nameOf) {
  const numbers = numbersOf(rows), words = numbers.map((number) => [number, rowOf(rows, number, frame)]).filter(([, row]) => row)
    .map(([number, row]) => `${numbers.length > 1 ? `${nameOf(number)} ` : ""}${row[2].toFixed(2)} ${row[3]}`);
  return [`frame ${frame}`, `${seconds.toFixed(2)} s`, ...words].join(" · ");
}
