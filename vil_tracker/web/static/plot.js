// The score of each target over time, with a band of its states below, as SVG.
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 40, RIGHT = 12, TOP = 8, BOTTOM = 22, BAND = 7, POINTS = 1200;

export const stateColours = { tracking: "#2ecc71", uncertain: "#ffb020", lost: "#f04848", recovered: "#4895ff" };
export const targetColour = (target) => `var(--${["one", "two", "three", "four"][(target - 1) % 4]})`;

function add(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// A step between labels that a person would choose, in seconds.
function tickStep(seconds, count) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
  return steps.find((step) => seconds / step <= count) || 3600;
}

export function drawPlot(svg, rows, { first, total, fps, frame }) {
  const { width, height } = svg.getBoundingClientRect();
  if (!width) return;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const numbers = [...new Set(rows.map((row) => row[1]))];
  const bands = Math.max(1, numbers.length) * (BAND + 3) + 3;
  const inner = width - LEFT - RIGHT, depth = height - TOP - BOTTOM - bands;
  const x = (number) => LEFT + (inner * (number - first)) / Math.max(1, total - 1);
  const y = (score) => TOP + depth * (1 - score);

  for (const score of [0, 0.5, 1]) {
    add(svg, "line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(score), y2: y(score) });
    add(svg, "text", { x: LEFT - 8, y: y(score) + 4, "text-anchor": "end" }, score.toFixed(1));
  }
  const seconds = (total - 1) / fps, step = tickStep(seconds, Math.max(2, Math.floor(inner / 90)));
  for (let at = 0; at <= seconds + 1e-6; at += step) {
    const label = at >= 60 ? `${Math.floor(at / 60)}:${String(Math.round(at % 60)).padStart(2, "0")}` : `${+at.toFixed(1)} s`;
    add(svg, "text", { x: x(first + at * fps), y: height - 5, "text-anchor": at === 0 ? "start" : "middle" }, label);
  }

  numbers.forEach((number, index) => {
    const mine = rows.filter((row) => row[1] === number);
    const top = TOP + depth + 6 + index * (BAND + 3);
    for (let begin = 0; begin < mine.length;) {
      let end = begin;
      while (end < mine.length && mine[end][3] === mine[begin][3]) end++;
      const from = x(mine[begin][0]), to = x(end < mine.length ? mine[end][0] : mine[end - 1][0]);
      add(svg, "rect", { x: from, y: top, width: Math.max(1.5, to - from), height: BAND, rx: 1.5, fill: stateColours[mine[begin][3]] });
      begin = end;
    }
    const stride = Math.max(1, Math.ceil(mine.length / POINTS)), points = [];
    for (let i = 0; i < mine.length; i += stride) {
      let low = mine[i]; // of many frames in one pixel the lowest score matters
      for (let j = i; j < Math.min(i + stride, mine.length); j++) if (mine[j][2] < low[2]) low = mine[j];
      points.push(`${x(low[0]).toFixed(1)} ${y(low[2]).toFixed(1)}`);
    }
    const path = add(svg, "path", { d: points.length ? `M${points.join("L")}` : "" });
    path.style.stroke = targetColour(number);
  });
  if (frame !== null && frame >= first) {
    const at = Math.min(x(frame), width - RIGHT);
    add(svg, "line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: height - BOTTOM });
  }
}
