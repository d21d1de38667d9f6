// The score of each target over time, with a band of its states below, as SVG.
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 40, RIGHT = 12, TOP = 8, BOTTOM = 22, BAND = 10, POINTS = 1200;
const DASHES = ["none", "7 3", "2 3", "9 3 2 3"];

export const STATES = ["tracking", "uncertain", "lost", "recovered"];
export const targetColour = (target) => `var(--${["one", "two", "three", "four"][(target - 1) % 4]})`;
export const targetDashes = (target) => DASHES[(target - 1) % 4];

export function node(tag, attributes = {}, text = undefined) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// A stretch of a state: its colour, and a pattern that says the same.
export function band(state, x, y, width, height) {
  const place = { x, y, width, height };
  return [node("rect", { class: `band ${state}`, ...place }), node("rect", { class: "pattern", fill: `url(#${state})`, ...place })];
}

// Stretches of one state in the rows of one target, as [state, first row, row after the last].
export function stretches(rows) {
  const found = [];
  for (let begin = 0; begin < rows.length;) {
    let end = begin;
    while (end < rows.length && rows[end][3] === rows[begin][3]) end++;
    found.push([rows[begin][3], begin, end]);
    begin = end;
  }
  return found;
}

// A step between labels that a person would choose, in seconds.
function tickStep(seconds, count) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
  return steps.find((step) => seconds / step <= count) || 3600;
}

// The frame under a point of the screen.
export function frameAt(svg, clientX, first, total) {
  const box = svg.getBoundingClientRect();
  const share = (clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
  return first + Math.floor(Math.min(1, Math.max(0, share)) * (total - 1));
}

export function drawPlot(svg, rows, { first, total, fps, times, frame }) {
  const { width, height } = svg.getBoundingClientRect();
  if (!width) return;
  const parts = [], add = (tag, attributes, text) => parts.push(node(tag, attributes, text));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const numbers = [...new Set(rows.map((row) => row[1]))].sort();
  const bands = Math.max(1, numbers.length) * (BAND + 3) + 3;
  const inner = width - LEFT - RIGHT, depth = height - TOP - BOTTOM - bands;
  const x = (number) => LEFT + (inner * (number - first)) / Math.max(1, total - 1);
  const y = (score) => TOP + depth * (1 - score);

  for (const score of [0, 0.5, 1]) {
    add("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(score), y2: y(score) });
    add("text", { x: LEFT - 8, y: y(score) + 4, "text-anchor": "end" }, score.toFixed(1));
  }
  const known = times.length, rest = (total - known) / fps; // frames to come are expected at even distances
  const begin = known ? times[0] : first / fps, end = (known ? times[known - 1] + rest : begin + (total - 1) / fps);
  const frameOf = (at) => {
    const next = times.findIndex((time) => time >= at);
    if (next > 0) return first + next - (times[next] - at) / (times[next] - times[next - 1]);
    return next === 0 ? first : first + Math.max(0, known - 1) + (at - (known ? times[known - 1] : begin)) * fps;
  };
  const step = tickStep(end - begin, Math.max(3, Math.floor(inner / 90)));
  for (let at = Math.ceil(begin / step - 1e-6) * step; at <= end + 1e-6; at += step) {
    const label = at >= 60 ? `${Math.floor(at / 60)}:${String(Math.round(at % 60)).padStart(2, "0")}` : `${+at.toFixed(1)} s`;
    add("text", { x: x(frameOf(at)), y: height - 5, "text-anchor": at - begin < step / 4 ? "start" : "middle" }, label);
  }

  numbers.forEach((number, index) => {
    const mine = rows.filter((row) => row[1] === number);
    const top = TOP + depth + 6 + index * (BAND + 3);
    for (const [state, from, to] of stretches(mine)) {
      const left = x(mine[from][0]), right = x(to < mine.length ? mine[to][0] : mine[to - 1][0]);
      parts.push(...band(state, left, top, Math.max(1.5, right - left), BAND));
    }
    if (numbers.length > 1) add("text", { x: LEFT - 8, y: top + BAND - 1, "text-anchor": "end" }, number);
    const stride = Math.max(1, Math.ceil(mine.length / POINTS)), points = [];
    for (let i = 0; i < mine.length; i += stride) {
      let low = mine[i]; // of many frames in one pixel the lowest score matters
      for (let j = i; j < Math.min(i + stride, mine.length); j++) if (mine[j][2] < low[2]) low = mine[j];
      points.push(`${x(low[0]).toFixed(1)} ${y(low[2]).toFixed(1)}`);
    }
    const path = node("path", { class: "score", d: points.length ? `M${points.join("L")}` : "", "stroke-dasharray": targetDashes(number) });
    path.style.stroke = targetColour(number);
    parts.push(path);
  });
  if (frame !== null && frame >= first) {
    const at = Math.min(x(frame), width - RIGHT);
    add("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: height - BOTTOM });
  }
  svg.replaceChildren(...parts);
}
