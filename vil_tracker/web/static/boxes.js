// Drawing targets on the frames of a video: with the mouse or a finger, or typed as numbers. A target has a name and
// boxes by frame: on the first of them it begins, on the others it is corrected. Boxes are x, y, w, h in pixels.
import { node, targetColour } from "./plot.js";

const NAMES = ["x", "y", "w", "h"];
const BRIGHT = ["#7db4ff", "#d79bff", "#62dbe6", "#ff9cc8"]; // on any picture, with a dark halo
const round = (value) => Math.round(value * 10) / 10;

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class BoxEditor {
  // changed: called after every change; begun: when something else than a proposal is done; ready: whether the
  // frame is seen; found(target): the box that tracking gave on this frame, or null;
  // go(frame): shows another frame; clicked(point): a click that drew nothing.
  constructor(area, overlay, list, { changed, begun, ready, found, go, clicked }) {
    Object.assign(this, { area, overlay, list, changed, begun, ready, found, go, clicked, targets: [], past: [], active: 0, frame: 0, width: 1, height: 1, drag: null });
    area.addEventListener("pointerdown", (event) => this.press(event));
    area.addEventListener("pointermove", (event) => this.move(event));
    area.addEventListener("pointerup", (event) => this.release(event));
    area.addEventListener("pointercancel", () => this.cancel());
    area.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  // Targets as the server knows them: those without a box do not exist yet.
  content() {
    return this.targets.filter((target) => target.boxes.size).map(({ name, boxes }) => ({
      name, boxes: [...boxes].sort((a, b) => a[0] - b[0]).map(([frame, box]) => [frame, ...box]),
    }));
  }

  open(width, height, targets, frame = 0) {
    const known = targets.map(({ name, boxes }) => ({ name, boxes: new Map(boxes.map(([at, ...box]) => [at, box])) }));
    Object.assign(this, { width, height, frame, drag: null, targets: known.length ? known : [{ name: "", boxes: new Map() }] });
    Object.assign(this, { past: [], known: this.content() });
    this.active = Math.min(this.active, this.targets.length - 1);
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.overlay.setAttribute("preserveAspectRatio", "none");
    this.refresh();
  }

  // Take note of a change, for undo.
  note() {
    this.past.push(this.known);
    this.known = this.content();
    this.changed();
  }

  undo() {
    const before = this.past.pop(), { past } = this;
    this.open(this.width, this.height, before, this.frame);
    this.past = past;
    this.changed();
  }

  show(frame) { this.begun(); this.frame = frame; this.cancel(); this.refresh(); }

  add() {
    this.begun();
    this.targets.push({ name: "", boxes: new Map() });
    this.active = this.targets.length - 1;
    this.refresh();
  }

  remove(index) {
    this.begun();
    this.targets.splice(index, 1);
    if (!this.targets.length) this.targets.push({ name: "", boxes: new Map() });
    this.active = Math.min(this.active, this.targets.length - 1);
    this.refresh();
    this.note();
  }

  // Set or remove (null) the box of a target on the frame that is shown.
  put(index, box) {
    if (box) this.targets[index].boxes.set(this.frame, box);
    else this.targets[index].boxes.delete(this.frame);
  }

  get box() { return this.targets[this.active].boxes.get(this.frame) || null; }

  at(event) {
    const shown = this.overlay.getBoundingClientRect();
    const clamp = (value, limit) => Math.min(Math.max(value, 0), limit);
    return [
      clamp(((event.clientX - shown.left) / shown.width) * this.width, this.width),
      clamp(((event.clientY - shown.top) / shown.height) * this.height, this.height),
    ];
  }

  press(event) {
    if (event.button !== 0 || !this.ready()) return; // not while another frame is still seen
    event.preventDefault();
    this.area.focus({ preventScroll: true });
    this.begun();
    this.area.setPointerCapture(event.pointerId);
    this.drag = { from: this.at(event), before: this.box };
  }

  move(event) {
    this.pointer = event.pointerType === "touch" ? null : this.at(event);
    if (this.drag) this.put(this.active, this.between(this.drag.from, this.at(event)));
    this.draw();
    if (this.drag) this.fill();
  }

  release(event) {
    if (!this.drag) return;
    const { from, before } = this.drag, box = this.between(from, this.at(event));
    const slip = box[2] < 2 || box[3] < 2; // a click is no box
    this.put(this.active, slip ? before : box);
    this.drag = null;
    this.refresh();
    if (slip) this.clicked(from);
    else this.note();
  }

  // Take a box that was proposed.
  offer(box) {
    this.put(this.active, box.map(round));
    this.refresh();
    this.note();
  }

  cancel() {
    if (this.drag) this.put(this.active, this.drag.before);
    this.drag = null;
    this.draw();
  }

  between([ax, ay], [bx, by]) {
    return [Math.min(ax, bx), Math.min(ay, by), Math.abs(ax - bx), Math.abs(ay - by)].map(round);
  }

  label(index) { return this.targets[index].name || `target ${index + 1}`; }

  refresh() {
    this.list.replaceChildren(...this.targets.map((target, index) => this.row(target, index)));
    this.draw();
  }

  choose(index) {
    this.begun();
    this.active = index;
    [...this.list.children].forEach((row, position) => {
      row.classList.toggle("active", position === index);
      row.querySelector(".dot").setAttribute("aria-pressed", position === index);
    });
    this.draw();
  }

  row(target, index) {
    const dot = make("button", { className: "dot", type: "button", textContent: index + 1 });
    dot.setAttribute("aria-pressed", index === this.active);
    dot.setAttribute("aria-label", `Draw target ${index + 1}`);
    dot.style.setProperty("--c", targetColour(index + 1));
    const name = make("input", { className: "name", value: target.name, placeholder: `Target ${index + 1}`, maxLength: 40 });
    name.setAttribute("aria-label", `Name of target ${index + 1}`);
    name.addEventListener("change", () => { target.name = name.value.trim(); this.draw(); this.note(); });
    const remove = make("button", { className: "remove", type: "button", textContent: "×", title: "Remove this target" });
    remove.setAttribute("aria-label", `Remove target ${index + 1}`);
    remove.addEventListener("click", (event) => { event.stopPropagation(); this.remove(index); });
    const numbers = make("span", { className: "numbers" });
    const box = target.boxes.get(this.frame), ghost = this.found(index);
    NAMES.forEach((axis, position) => {
      const input = make("input", { type: "number", step: "0.1", min: "0", value: box ? box[position] : "", name: axis,
        placeholder: ghost ? round(ghost[position]) : "" });
      input.setAttribute("aria-label", `${axis} of target ${index + 1} on this frame, pixels`);
      input.addEventListener("change", () => this.typed(index, numbers));
      numbers.append(make("label", {}, axis, input));
    });
    const item = make("li", { className: index === this.active ? "active" : "" }, dot, name, remove, numbers, this.frames(target, index));
    item.addEventListener("click", () => { if (this.active !== index) this.choose(index); });
    item.addEventListener("focusin", () => { if (this.active !== index) this.choose(index); });
    return item;
  }

  // The frames on which a target has boxes: press one to go there, × takes the box back.
  frames(target, index) {
    const chips = make("span", { className: "chips" });
    [...target.boxes.keys()].sort((a, b) => a - b).forEach((frame, position) => {
      const go = make("button", { type: "button", textContent: `${position ? "corrected" : "begins"} on frame ${frame}` });
      const drop = make("button", { type: "button", textContent: "×" });
      drop.setAttribute("aria-label", `Remove the box of target ${index + 1} on frame ${frame}`);
      go.addEventListener("click", () => this.go(frame));
      drop.addEventListener("click", () => { target.boxes.delete(frame); this.refresh(); this.note(); });
      const chip = make("span", { className: frame === this.frame ? "here" : "" }, go);
      if (target.boxes.size > 1) chip.append(drop);
      chips.append(chip);
    });
    return chips;
  }

  typed(index, numbers) {
    this.begun();
    const inputs = [...numbers.querySelectorAll("input")], values = inputs.map((input) => parseFloat(input.value));
    const whole = values.every(Number.isFinite) && values[2] > 0 && values[3] > 0;
    if (!whole && inputs.some((input) => input.value) && !this.targets[index].boxes.has(this.frame)) return; // not yet
    this.put(index, whole ? values : null);
    this.draw();
    this.note();
    this.list.children[index].querySelector(".chips").replaceWith(this.frames(this.targets[index], index));
  }

  fill() {
    const inputs = this.list.children[this.active]?.querySelectorAll(".numbers input") || [];
    inputs.forEach((input, position) => { input.value = this.box[position]; });
  }

  draw() {
    const parts = [], scale = this.width / (this.overlay.getBoundingClientRect().width || this.width);
    if (this.pointer && !this.drag) {
      const [x, y] = this.pointer;
      parts.push(node("line", { x1: 0, x2: this.width, y1: y, y2: y }), node("line", { x1: x, x2: x, y1: 0, y2: this.height }));
    }
    this.targets.forEach((target, index) => {
      const drawn = target.boxes.get(this.frame), box = drawn || this.found(index);
      if (!box) return;
      const [x, y, width, height] = box, size = 15 * scale, stroke = BRIGHT[index % 4];
      if (this.drag && index === this.active) {
        for (const [sx, sy, sw, sh] of [[0, 0, this.width, y], [0, y, x, height], [x + width, y, this.width - x - width, height],
          [0, y + height, this.width, this.height - y - height]]) {
          if (sw > 0 && sh > 0) parts.push(node("rect", { class: "shade", x: sx, y: sy, width: sw, height: sh }));
        }
      }
      parts.push(node("rect", { class: "halo", x, y, width, height }));
      parts.push(node("rect", { class: drawn ? "box" : "box ghost", x, y, width, height, stroke }));
      parts.push(node("text", { x: x + size * 0.3, y: y > size * 1.5 ? y - size * 0.4 : y + size * 1.1, fill: stroke,
        "font-size": size, "stroke-width": size * 0.22 }, target.name ? `${index + 1} ${target.name}` : index + 1));
    });
    this.overlay.replaceChildren(...parts);
  }
}
