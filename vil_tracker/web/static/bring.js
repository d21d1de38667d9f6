// Bringing a video: a file, the sample clip, or one of the list.
import { $, ask, attempt, complain, say, size, upload } from "./ask.js";

async function bring(work, go) {
  $("drop").classList.add("busy");
  $("sample").disabled = true;
  $("upload").hidden = false;
  const answer = await attempt(work);
  $("drop").classList.remove("busy");
  $("sample").disabled = false;
  $("upload").hidden = true;
  $("file").value = "";
  if (answer) go(answer.id);
}

export function bringFile(file, limits, go) {
  if (!file) return;
  if (limits && file.size > limits.upload_bytes) {
    complain(`${file.name} has ${size(file.size)}, the limit is ${size(limits.upload_bytes)}: cut it into parts`);
    return;
  }
  const progress = (loaded, total) => {
    $("upload-bar").value = loaded / total;
    $("upload-text").textContent = loaded < total ? `${size(loaded)} of ${size(total)}` : "Opening the video …";
    say($("upload-text").textContent);
  };
  progress(0, Math.max(1, file.size));
  bring(() => upload(file, progress), go);
}

export function bringSample(go) {
  $("upload-text").textContent = "Painting the sample clip …";
  $("upload-bar").removeAttribute("value");
  bring(() => ask("/api/sample", "POST", {}), go);
}

let listed = "";

export async function list() {
  const known = await ask("/api/videos").catch(() => []);
  if (JSON.stringify(known) === listed) return;
  listed = JSON.stringify(known);
  $("mine").hidden = !known.length;
  $("videos").replaceChildren(...known.map((entry) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const state = document.createElement("span"), remove = document.createElement("button");
    Object.assign(link, { href: `#${entry.id}`, textContent: entry.title });
    state.textContent = entry.status === "ready" ? "not tracked yet" : `${entry.status}, ${entry.tracked} frames`;
    Object.assign(remove, { type: "button", textContent: "Delete" });
    remove.setAttribute("aria-label", `Delete ${entry.title}`);
    remove.addEventListener("click", async () => {
      if (!confirm(`Delete ${entry.title} and its results?`)) return;
      await attempt(() => ask(`/api/videos/${entry.id}`, "DELETE"));
      await list();
      $("bring-title").focus();
    });
    item.append(link, state, remove);
    return item;
  }));
}
