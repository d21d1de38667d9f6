// The page: bring a video, draw boxes, follow the run, look at the result. Text from outside is only ever set as text.
import { drawPlot, stateColours } from "./plot.js";
import { BoxEditor } from "./boxes.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["bring", "draw", "run", "result"];
const POLL = 350; // milliseconds
let limits = null;
let video = null; // the server's latest word about the video
let rows = []; // [frame, target, score, state]
let polling = 0; // number of the current watch; an older one ends by itself

function show(view) {
  document.body.dataset.view = view;
  for (const element of document.querySelectorAll("[data-for]")) {
    element.hidden = !element.dataset.for.split(" ").includes(view);
  }
  for (const step of document.querySelectorAll(".steps li")) {
    const position = VIEWS.indexOf(step.dataset.step) - VIEWS.indexOf(view);
    step.classList.toggle("past", position < 0);
    if (position === 0) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  }
  if (view !== "result") $("player").pause();
}

function complain(message) {
  $("error-text").textContent = message || "";
  $("error").hidden = !message;
}

class Refusal extends Error {}

async function ask(path, method = "GET", content = undefined) {
  const options = { method, headers: { "X-ViL-Tracker": "1" } };
  if (content !== undefined) options.body = JSON.stringify(content);
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(answer.error || `the server answered ${response.status}`);
  return answer;
}

async function attempt(action) {
  complain("");
  try {
    return await action();
  } catch (error) {
    complain(error instanceof Refusal ? error.message : "the server does not answer: is it still running?");
    return null;
  }
}

// --- bring --------------------------------------------------------------------------------------------------------

function size(bytes) {
  const megabytes = bytes / 2 ** 20;
  return megabytes >= 1024 ? `${(megabytes / 1024).toFixed(1)} GB` : `${Math.max(1, Math.round(megabytes))} MB`;
}

function upload(file) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/videos?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("X-ViL-Tracker", "1");
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      $("upload-bar").value = event.loaded / event.total;
      $("upload-text").textContent = event.loaded < event.total
        ? `${size(event.loaded)} of ${size(event.total)}` : "Opening the video …";
    };
    request.onerror = () => reject(new Refusal("the upload broke off: the file may be no video, or the server is gone"));
    request.onload = () => request.status === 201
      ? resolve(request.response) : reject(new Refusal(request.response?.error || `the server answered ${request.status}`));
    request.send(file);
  });
}

async function bring(work) {
  $("drop").classList.add("busy");
  $("sample").disabled = true;
  $("upload").hidden = false;
  $("upload-bar").value = 0;
  const answer = await attempt(work);
  $("drop").classList.remove("busy");
  $("sample").disabled = false;
  $("upload").hidden = true;
  $("file").value = "";
  if (answer) {
    go(answer.id);
  }
}

function bringFile(file) {
  if (!file) return;
  if (limits && file.size > limits.upload_bytes) {
    complain(`${file.name} has ${size(file.size)}, the limit is ${size(limits.upload_bytes)}: cut it into parts`);
    return;
  }
  $("upload-text").textContent = "";
  bring(() => upload(file));
}

// --- draw ---------------------------------------------------------------------------------------------------------

const editor = new BoxEditor($("first-frame"), $("overlay"), $("targets"), () => {
  $("start").disabled = editor.boxes().length === 0;
  $("add").hidden = !limits || editor.count >= limits.targets || editor.boxes().length < editor.count;
});

function duration(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function open(answer, view) {
  video = answer;
  hovered = null;
  $("title").textContent = video.title;
  const length = video.frames ? `${video.frames} frames · ${duration(video.frames / video.fps)}` : "length unknown";
  $("facts").textContent = `${video.width} × ${video.height} · ${+video.fps.toFixed(2)} frames per second · ${length}`;
  const width = `min(100%, calc(68vh * ${video.width / video.height}), ${Math.max(video.width * 2, 480)}px)`;
  $("stage").style.setProperty("--shown-width", width);
  $("first").src = `/api/videos/${video.id}/first`;
  editor.open(video.width, video.height, video.boxes.length ? video.boxes : video.suggested || []);
  if (video.status === "ready" || view === "draw") show("draw");
  else watch();
}

async function start() {
  $("start").disabled = true;
  const answer = await attempt(() => ask(`/api/videos/${video.id}/track`, "POST", { boxes: editor.boxes() }));
  $("start").disabled = false;
  if (answer) {
    video = answer;
    go(video.id);
  }
}

// --- run ----------------------------------------------------------------------------------------------------------

async function watch() {
  const mine = ++polling;
  rows = [];
  $("preview").src = $("first").src;
  showProgress();
  show("run");
  let next = 0, failures = 0;
  while (mine === polling) {
    try {
      const answer = await ask(`/api/videos/${video.id}?after=${next}`);
      if (mine !== polling) return;
      if (failures) complain("");
      failures = 0;
      video = answer;
      next = answer.next;
      rows.push(...answer.rows);
      showProgress();
      if (!["waiting", "running"].includes(video.status)) break;
    } catch (error) {
      if (mine !== polling) return;
      if (error instanceof Refusal) {
        await go("");
        return complain(error.message);
      }
      if (++failures === 3) complain("the server does not answer; trying again …");
    }
    await new Promise((wake) => setTimeout(wake, POLL * Math.min(1 + failures, 10)));
  }
  if (video.status === "failed" || !video.files.csv) {
    complain(video.error || "the run was stopped before it began");
    show("draw");
  } else showResult();
}

let previewed = 0;

function showProgress() {
  const share = video.frames ? Math.min(1, video.tracked / video.frames) : 0;
  $("percent").textContent = video.frames ? `${Math.floor(share * 100)} %` : `${video.tracked}`;
  if (video.frames) $("bar").value = share;
  else $("bar").removeAttribute("value");
  if (video.status === "waiting") {
    $("run-title").textContent = "Waiting in the queue";
    $("run-text").textContent = video.ahead > 0
      ? `${video.ahead} ${video.ahead === 1 ? "run is" : "runs are"} ahead of yours.` : "Yours is next.";
  } else {
    $("run-title").textContent = "Tracking";
    const parts = [`Frame ${video.tracked}${video.frames ? ` of ${video.frames}` : ""}`];
    if (video.speed) parts.push(`${video.speed.toFixed(1)} frames per second`);
    if (video.speed && video.frames) parts.push(`${duration((video.frames - video.tracked) / video.speed)} left`);
    $("run-text").textContent = parts.join(" · ");
    const now = Date.now();
    if (video.tracked && now - previewed > 600) {
      previewed = now;
      const picture = new Image();
      picture.onload = () => { $("preview").src = picture.src; };
      picture.src = `/api/videos/${video.id}/preview?${now}`;
    }
  }
  plot();
}

// --- result -------------------------------------------------------------------------------------------------------

function showResult() {
  const base = `/api/videos/${video.id}`;
  $("player").src = video.files.video ? `${base}/video?run=${video.run}` : "";
  $("get-video").hidden = !video.files.video;
  for (const [id, role] of [["get-video", "video"], ["get-csv", "csv"], ["get-jsonl", "jsonl"],
    ["get-mot", "mot"], ["get-coco", "coco"], ["get-yolo", "yolo"]]) {
    $(id).href = `${base}/${role}?run=${video.run}&download`;
  }
  $("result-title").textContent = video.status === "stopped" ? "Stopped" : "Done";
  const rate = video.seconds > 0 ? ` · ${(video.tracked / video.seconds).toFixed(1)} frames per second` : "";
  const limited = video.limited ? " The video is longer than the limit and was tracked up to it." : "";
  $("result-text").textContent = `${video.tracked} frames in ${duration(video.seconds)}${rate}.${limited} ${video.note}`.trim();
  $("shares").replaceChildren(...targets().map(shareOf));
  show("result");
  plot();
  $("player").play().catch(() => {}); // a browser may want a click first
}

function targets() {
  return [...new Set(rows.map((row) => row[1]))];
}

function shareOf(target) {
  const mine = rows.filter((row) => row[1] === target);
  const bar = document.createElement("div"), words = document.createElement("div"), item = document.createElement("div");
  bar.className = "share";
  words.className = "words";
  const texts = [];
  for (const [state, colour] of Object.entries(stateColours)) {
    const count = mine.filter((row) => row[3] === state).length;
    if (!count) continue;
    const part = document.createElement("i");
    part.style.background = colour;
    part.style.flex = `${count} 0 0`;
    bar.append(part);
    texts.push(`${state} ${count}`);
  }
  words.textContent = `Target ${target}: ${texts.join(", ")}`;
  item.append(bar, words);
  return item;
}

// --- plot ---------------------------------------------------------------------------------------------------------

let hovered = null;

function plot() {
  const done = document.body.dataset.view === "result";
  const first = rows.length ? rows[0][0] : 0;
  const total = (done ? video.tracked : Math.max(video.frames || 0, video.tracked)) || 1;
  const playing = done && $("player").readyState ? first + $("player").currentTime * video.fps : null;
  const frame = hovered === null ? playing : first + hovered * (total - 1);
  drawPlot($("plot"), rows, { first, total, fps: video.fps, frame });
  $("plot-readout").textContent = frame === null ? "" : readout(Math.floor(frame + 1e-3), first);
}

function readout(frame, first) {
  const count = targets().length || 1;
  const here = rows.slice((frame - first) * count, (frame - first + 1) * count).filter((row) => row[0] === frame);
  const words = here.map((row) => `${count > 1 ? `target ${row[1]} ` : ""}${row[2].toFixed(2)} ${row[3]}`);
  return `frame ${frame} · ${(frame / video.fps).toFixed(2)} s${words.length ? " · " : ""}${words.join(" · ")}`;
}

function animate() {
  if (document.body.dataset.view === "result") {
    plot();
    if (!$("player").paused) requestAnimationFrame(animate);
  }
}

// --- wiring -------------------------------------------------------------------------------------------------------

// Every view has an address: none for bringing a video, #id for one, #id/draw for its boxes once it was tracked.
function go(place) {
  if (location.hash.slice(1) !== place) history.pushState(null, "", location.pathname + (place && `#${place}`));
  return route();
}

async function route() {
  const mine = ++polling;
  complain("");
  const [id, view] = location.hash.slice(1).split("/");
  const known = /^[\w-]+$/.test(id) ? await ask(`/api/videos/${id}`).catch(() => null) : null;
  if (mine !== polling) return;
  if (known) return open(known, view);
  video = null;
  if (id) history.replaceState(null, "", location.pathname);
  $("player").removeAttribute("src");
  show("bring");
  await list();
}

async function list() {
  const known = await ask("/api/videos").catch(() => []);
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
      list();
    });
    item.append(link, state, remove);
    return item;
  }));
}

async function stop() {
  const answer = await attempt(() => ask(`/api/videos/${video.id}/stop`, "POST", {}));
  if (answer) $("run-text").textContent = "Stopping …";
}

$("file").addEventListener("change", () => bringFile($("file").files[0]));
$("sample").addEventListener("click", () => {
  $("upload-text").textContent = "Painting the sample clip …";
  $("upload-bar").removeAttribute("value");
  bring(() => ask("/api/sample", "POST", {}));
  $("upload-bar").removeAttribute("value");
});
$("start").addEventListener("click", start);
$("add").addEventListener("click", () => editor.add());
$("stop").addEventListener("click", stop);
$("again").addEventListener("click", () => go(`${video.id}/draw`));
for (const button of document.querySelectorAll(".anew")) {
  button.addEventListener("click", () => go(""));
}
$("error-close").addEventListener("click", () => complain(""));
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault(); // a file dropped beside the field must not replace the page
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && document.body.dataset.view === "bring") bringFile(event.dataTransfer.files[0]);
  });
}
$("player").addEventListener("play", animate);
for (const type of ["seeked", "loadeddata", "pause"]) $("player").addEventListener(type, animate);
$("plot").addEventListener("pointermove", (event) => {
  const box = $("plot").getBoundingClientRect();
  hovered = Math.min(1, Math.max(0, (event.clientX - box.left - 40) / (box.width - 52)));
  if (video) plot();
});
$("plot").addEventListener("pointerleave", () => { hovered = null; if (video) plot(); });
$("plot").addEventListener("click", () => {
  if (document.body.dataset.view === "result" && hovered !== null) {
    $("player").currentTime = (hovered * (video.tracked - 1)) / video.fps;
  }
});
addEventListener("popstate", route); // back, forward, and the links of the list
document.addEventListener("visibilitychange", () => { // another tab may have changed it
  if (!document.hidden && document.body.dataset.view === "bring") list();
});
addEventListener("resize", () => { if (video) plot(); });

show("bring");
attempt(async () => {
  limits = await ask("/api/limits");
  const minutes = Math.round(limits.keep_seconds / 60);
  $("fine").textContent = `Up to ${size(limits.upload_bytes)}, ${limits.frames} frames and `
    + `${(limits.pixels / 1e6).toFixed(1)} megapixels. Your video stays on the computer that runs this page, `
    + `is seen by nobody else, and is deleted after ${minutes} ${minutes === 1 ? "minute" : "minutes"}.`;
  await route();
});
