// Drawing boxes on a picture: with the mouse or a finger, or typed as numbers. Boxes are x, y, w, h in its pixels.
import { targetColour } from "./plot.js";

const SVG = "http://www.w3.org/2000/svg";
const NAMES = ["x", "y", "w", "h"];

function node(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export class BoxEditor {
  constructor(frame, overlay, list, changed) {
    Object.assign(this, { frame, overlay, list, changed, targets: [null], active: 0, width: 1, height: 1, drag: null });
    frame.addEventListener("pointerdown", (event) => this.press(event));
    frame.addEventListener("pointermove", (event) => this.move(event));
    frame.addEventListener("pointerup", (event) => this.release(event));
    frame.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
    frame.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  get count() { return this.targets.length; }

  boxes() { return this.targets.filter((box) => box !== null); }

  open(width, height, boxes) {
    Object.assign(this, { width, height, targets: boxes.length ? boxes.map((box) => [...box]) : [null], active: 0, drag: null });
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.overlay.setAttribute("preserveAspectRatio", "none");
    this.refresh();
  }

  add() {
    this.targets.push(null);
    this.active = this.targets.length - 1;
    this.refresh();
  }

  remove(index) {
    this.targets.splice(index, 1);
    if (!this.targets.length) this.targets.push(null);
    this.active = Math.min(this.active, this.targets.length - 1);
    this.refresh();
  }

  at(event) {
    const shown = this.overlay.getBoundingClientRect();
    const clamp = (value, limit) => Math.min(Math.max(value, 0), limit);
    return [
      clamp(((event.clientX - shown.left) / shown.width) * this.width, this.width),
      clamp(((event.clientY - shown.top) / shown.height) * this.height, this.height),
    ];
  }

  press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.frame.setPointerCapture(event.pointerId);
    this.drag = { from: this.at(event), before: this.targets[this.active] };
  }

  move(event) {
    this.pointer = this.at(event);
    if (this.drag) this.targets[this.active] = this.between(this.drag.from, this.pointer);
    this.draw();
    if (this.drag) this.fill();
  }

  release(event) {
    if (!this.drag) return;
    const box = this.between(this.drag.from, this.at(event));
    const slip = box[2] < 2 || box[3] < 2; // a click is no box
    this.targets[this.active] = slip ? this.drag.before : box;
    this.drag = null;
    this.refresh();
  }

  between([ax, ay], [bx, by]) {
    const round = (value) => Math.round(value * 10) / 10;
    return [Math.min(ax, bx), Math.min(ay, by), Math.abs(ax - bx), Math.abs(ay - by)].map(round);
  }

  refresh() {
    this.list.replaceChildren(...this.targets.map((box, index) => this.row(box, index)));
    this.draw();
    this.changed();
  }

  row(box, index) {
    const item = document.createElement("li"), dot = document.createElement("span");
    const numbers = document.createElement("span"), remove = document.createElement("button");
    item.classList.toggle("active", index === this.active);
    dot.className = "dot";
    dot.textContent = index + 1;
    dot.style.setProperty("--c", targetColour(index + 1));
    numbers.className = "numbers";
    NAMES.forEach((name, position) => {
      const label = document.createElement("label"), input = document.createElement("input");
      label.textContent = name;
      Object.assign(input, { type: "number", step: "0.1", min: "0", value: box ? box[position] : "", name });
      input.setAttribute("aria-label", `${name} of target ${index + 1}, pixels`);
      input.addEventListener("change", () => this.typed(index, numbers));
      label.append(input);
      numbers.append(label);
    });
    Object.assign(remove, { className: "remove", type: "button", textContent: "×", title: "Remove this box" });
    remove.addEventListener("click", (event) => { event.stopPropagation(); this.remove(index); });
    item.addEventListener("click", () => {
      if (this.active === index) return;
      this.active = index;
      [...this.list.children].forEach((other, position) => other.classList.toggle("active", position === index));
      this.draw();
    });
    item.append(dot, numbers, remove);
    return item;
  }

  typed(index, numbers) {
    const values = [...numbers.querySelectorAll("input")].map((input) => parseFloat(input.value));
    this.targets[index] = values.every(Number.isFinite) && values[2] > 0 && values[3] > 0 ? values : null;
    this.draw();
    this.changed();
  }

  fill() {
    const inputs = this.list.children[this.active]?.querySelectorAll("input") || [];
    inputs.forEach((input, position) => { input.value = this.targets[this.active][position]; });
  }

  draw() {
    const parts = [], scale = this.width / (this.overlay.getBoundingClientRect().width || this.width);
    if (this.pointer && !this.drag) {
      const [x, y] = this.pointer;
      parts.push(node("line", { x1: 0, x2: this.width, y1: y, y2: y }), node("line", { x1: x, x2: x, y1: 0, y2: this.height }));
    }
    this.targets.forEach((box, index) => {
      if (!box) return;
      const [x, y, width, height] = box, size = 15 * scale;
      const stroke = ["#7db4ff", "#d79bff", "#62dbe6", "#ff9cc8"][index % 4];
      if (this.drag && index === this.active) {
        for (const [sx, sy, sw, sh] of [[0, 0, this.width, y], [0, y, x, height], [x + width, y, this.width - x - width, height],
          [0, y + height, this.width, this.height - y - height]]) {
          if (sw > 0 && sh > 0) parts.push(node("rect", { class: "shade", x: sx, y: sy, width: sw, height: sh }));
        }
      }
      parts.push(node("rect", { class: "halo", x, y, width, height }));
      parts.push(node("rect", { class: "box", x, y, width, height, stroke }));
      const label = node("text", { x: x + size * 0.3, y: y > size * 1.5 ? y - size * 0.4 : y + size * 1.1, fill: stroke,
        "font-size": size, "stroke-width": size * 0.22 });
      label.textContent = index + 1;
      parts.push(label);
    });
    this.overlay.replaceChildren(...parts);
  }
}
