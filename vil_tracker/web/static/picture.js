// A frame of a video as an image: one request at a time, and always the latest that was asked for.
import { Refusal, ask, complain } from "./ask.js";

export class Picture {
  constructor(image) { Object.assign(this, { image, wanted: "", fetching: false, shown: "" }); }

  async show(id, frame) {
    this.wanted = `/api/videos/${id}/${frame ? `frames/${frame}` : "first"}`;
    while (!this.fetching && this.wanted !== this.shown) {
      const path = this.wanted;
      this.fetching = true;
      try {
        const url = URL.createObjectURL(await ask(path));
        URL.revokeObjectURL(this.image.src);
        this.image.src = url;
        this.image.alt = `Frame ${path.split("/").at(-1).replace("first", "0")} of the video`;
        this.shown = path;
      } catch (error) {
        if (path === this.wanted) complain(error instanceof Refusal ? error.message : "the server does not answer: is it still running?");
        if (path === this.wanted) this.wanted = this.shown;
      }
      this.fetching = false;
    }
  }
}
