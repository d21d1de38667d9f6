// A frame of a video as an image: one request at a time, and always the latest that was asked for.
import { Refusal, ask, complain } from "./ask.js";

export class Picture {
  // failed(frame): called when a frame cannot be shown, with the one that is shown instead.
  constructor(image, failed) { Object.assign(this, { image, failed, wanted: null, shown: null, fetching: false }); }

  // Whether the image is the frame that was asked for.
  get current() { return this.wanted === this.shown; }

  async show(id, frame) {
    this.wanted = `${id}/${frame}`;
    while (!this.fetching && !this.current) {
      const next = this.wanted, number = Number(next.split("/")[1]);
      this.image.classList.add("old");
      this.fetching = true;
      try {
        const url = URL.createObjectURL(await ask(`/api/videos/${number ? next.replace("/", "/frames/") : next.replace("/0", "/first")}`));
        URL.revokeObjectURL(this.image.src);
        this.image.src = url;
        this.image.alt = `Frame ${number} of the video`;
        this.shown = next;
      } catch (error) {
        if (next === this.wanted) {
          complain(error instanceof Refusal ? error.message : "the server does not answer: is it still running?");
          this.wanted = this.shown;
          if (this.shown?.startsWith(`${next.split("/")[0]}/`)) this.failed(Number(this.shown.split("/")[1]));
        }
      }
      this.fetching = false;
    }
    if (this.current) this.image.classList.remove("old");
  }
}
