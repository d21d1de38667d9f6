// Boxes proposed for a click, best first: Tab or the button goes to the next one.
import { $, ask, attempt, say } from "./ask.js";

export class Proposals {
  constructor(editor) {
    Object.assign(this, { editor, boxes: [], at: 0, asked: 0 });
    $("next-proposal").addEventListener("click", () => this.next(1));
    $("canvas").addEventListener("keydown", (event) => {
      if (event.key !== "Tab" || !this.boxes.length || !this.next(event.shiftKey ? -1 : 1, false)) return;
      event.preventDefault(); // behind the last one, Tab goes on as everywhere
    });
  }

  close() {
    this.asked++;
    this.boxes = [];
    $("proposal").hidden = true;
  }

  async ask(id, point) {
    this.close();
    const mine = this.asked, { active, frame } = this.editor;
    $("canvas").classList.add("busy");
    const answer = await attempt(() => ask(`/api/videos/${id}/propose`, "POST", { frame, point }));
    $("canvas").classList.remove("busy");
    if (!answer || mine !== this.asked || active !== this.editor.active || frame !== this.editor.frame) return;
    Object.assign(this, { boxes: answer.boxes, at: 0 });
    this.offer();
  }

  // Go on by a step; with wrap from the last to the first. False if there is none to go to.
  next(step, wrap = true) {
    const at = this.at + step, inside = at >= 0 && at < this.boxes.length;
    if (!inside && !wrap) return false;
    this.at = (at + this.boxes.length) % this.boxes.length;
    this.offer();
    return true;
  }

  offer() {
    if (!this.boxes.length) return;
    this.editor.offer(this.boxes[this.at]);
    $("proposal").hidden = false;
    $("proposal-text").textContent = `Box ${this.at + 1} of ${this.boxes.length} for this click.`;
    say($("proposal-text").textContent);
  }
}
