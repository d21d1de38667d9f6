// Zooming into the picture that is drawn on: two fingers, Ctrl and the mouse wheel, or buttons.
const LARGEST = 8;

export class Zoom {
  constructor(area, begun) {
    Object.assign(this, { area, begun, scale: 1, x: 0, y: 0, fingers: new Map() });
    const listen = (type, handler) => area.addEventListener(type, handler, { capture: true, passive: false });
    listen("pointerdown", (event) => this.press(event));
    listen("pointermove", (event) => this.move(event));
    for (const type of ["pointerup", "pointercancel"]) listen(type, (event) => this.release(event));
    listen("wheel", (event) => {
      if (!event.ctrlKey) return; // the plain wheel scrolls the page
      event.preventDefault();
      this.by(Math.exp(-event.deltaY / 200), event.clientX, event.clientY);
    });
  }

  reset() { Object.assign(this, { scale: 1, x: 0, y: 0 }); this.apply(); }

  // Multiply the scale; the point of the screen stays where it is, the middle by default.
  by(factor, clientX, clientY) {
    const box = this.area.getBoundingClientRect();
    const [px, py] = [clientX ?? box.left + box.width / 2, clientY ?? box.top + box.height / 2];
    const scale = Math.min(LARGEST, Math.max(1, this.scale * factor)), ratio = scale / this.scale;
    this.x += (px - box.left) * (1 - ratio);
    this.y += (py - box.top) * (1 - ratio);
    this.scale = scale;
    this.apply();
  }

  apply() {
    this.x = Math.min(0, Math.max(this.x, this.area.offsetWidth * (1 - this.scale)));
    this.y = Math.min(0, Math.max(this.y, this.area.offsetHeight * (1 - this.scale)));
    this.area.style.transform = this.scale === 1 ? "" : `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.begun();
  }

  get span() {
    const [a, b] = [...this.fingers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, length: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  }

  press(event) {
    if (event.pointerType !== "touch") return;
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.fingers.size > 1) {
      event.stopPropagation();
      this.begun(); // whatever the first finger began to draw is dropped
    }
  }

  move(event) {
    if (!this.fingers.has(event.pointerId)) return;
    const before = this.fingers.size === 2 ? this.span : null;
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (!before) return;
    event.stopPropagation();
    event.preventDefault();
    const now = this.span;
    this.x += now.x - before.x;
    this.y += now.y - before.y;
    this.by(now.length / before.length, now.x, now.y);
  }

  release(event) {
    if (this.fingers.size > 1) event.stopPropagation();
    this.fingers.delete(event.pointerId);
  }
}
