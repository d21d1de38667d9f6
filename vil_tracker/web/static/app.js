// The page: bring a video, draw boxes, follow the run, look at the result. Text from outside is only ever set as text.
import { $, Refusal, ask, attempt, complain, duration, say, size } from "./ask.js";
import { BoxEditor } from "./boxes.js";
import { bringFile, bringSample, list } from "./bring.js";
import { Picture } from "./picture.js";
import { band, drawPlot, frameAt } from "./plot.js";
import { Proposals } from "./proposals.js";
import { doubts, dueAt, keyOf, numbersOf, readout, rowOf, shareOf, timesOf } from "./readings.js";
import { Zoom } from "./zoom.js";

const VIEWS = ["bring", "draw", "run", "result"];
const HEADINGS = { bring: "bring-title", draw: "title", run: "title", result: "title" };
const POLL = 350, LOOK = 2000; // milliseconds between questions, in a run and elsewhere
const FORMATS = { jsonl: "JSON lines", mot: "MOT", coco: "COCO", yolo: "YOLO", cvat: "CVAT", "label-studio": "Label Studio" };
let limits = null;
let video = null; // the server's latest word about the video
let problems = []; // frames on which doubt begins
let rows = []; // [frame, target, score, state, x, y, w, h, seconds] of its latest run
let times = []; // seconds of its frames
let polling = 0; // number of the current watch; an older one ends by itself

const view = () => document.body.dataset.view;

function show(name) {
  const before = view();
  document.body.dataset.view = name;
  for (const element of document.querySelectorAll("[data-for]")) {
    element.hidden = !element.dataset.for.split(" ").includes(name);
  }
  for (const step of document.querySelectorAll(".steps li")) {
    const position = VIEWS.indexOf(step.dataset.step) - VIEWS.indexOf(name);
    step.classList.toggle("past", position < 0);
    if (position === 0) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  }
  const step = document.querySelector(".steps [aria-current]").textContent;
  document.title = name === "bring" ? "ViL-Tracker" : `${step}: ${video.title} · ViL-Tracker`;
  if (name !== "result") $("player").pause();
  if (name !== before) {
    $(HEADINGS[name]).focus({ preventScroll: true }); // a reader goes on from the new view's beginning
    scrollTo(0, 0);
    say(step);
  }
}

// --- draw ---------------------------------------------------------------------------------------------------------

let shown = 0; // the frame in the draw view

const editor = new BoxEditor($("canvas"), $("overlay"), $("targets"), {
  changed: () => { allow(); saveDraft(); },
  begun: () => proposals.close(),
  ready: () => picture.current,
  found: (index) => resultOf(index, shown),
  go: (frame) => seek(frame),
  clicked: (point) => proposals.ask(video.id, point),
});
const proposals = new Proposals(editor);
const picture = new Picture($("picture"), (frame) => seek(frame));
const zoom = new Zoom($("canvas"), () => editor.cancel());

// The box that the latest run gave a target of the editor; a target is known by the box on which it begins.
function resultOf(index, frame) {
  const begins = editor.content().find((_, position) => position === index)?.boxes[0].join();
  const number = video.targets.findIndex((target) => target.boxes[0].join() === begins) + 1;
  return number ? rowOf(rows, number, frame)?.slice(4, 8) || null : null;
}

function allow() {
  const known = editor.content();
  $("start").disabled = known.length === 0;
  $("start").textContent = video.files.csv ? "Track with these boxes" : "Start tracking";
  $("result").hidden = !video.files.csv;
  $("undo").hidden = !editor.past.length;
  $("add").hidden = !limits || editor.targets.length >= limits.targets || known.length < editor.targets.length;
  $("draw-title").textContent = video.files.csv ? "Correct the boxes" : "Draw a box around the target";
}

let saving = null;

function saveDraft() {
  clearTimeout(saving);
  const { id } = video, targets = editor.content();
  saving = setTimeout(async () => {
    saving = null;
    const answer = await ask(`/api/videos/${id}/draft`, "PUT", { targets }).catch(() => null); // said at the start
    if (answer && video?.id === id) video.edits = answer.edits;
  }, 300);
}

function openDraw(frame) {
  problems = doubts(rows);
  zoom.reset();
  proposals.close();
  shown = Math.min(Math.max(0, frame || 0), lastFrame());
  editor.open(video.width, video.height, video.draft, shown);
  allow();
  picture.show(video.id, shown);
  show("draw");
  showFrame();
  editor.draw();
}

async function start() {
  $("start").disabled = true;
  clearTimeout(saving);
  const answer = await attempt(() => ask(`/api/videos/${video.id}/track`, "POST", { targets: editor.content() }));
  $("start").disabled = false;
  if (answer) go(answer.id);
}

// --- frames: of the video while drawing, of the result afterwards --------------------------------------------------

const secondsOf = (frame) => times[frame - firstFrame()] ?? frame / video.fps;
const firstFrame = () => (rows.length ? rows[0][0] : 0);

// The last frame that can be shown; a container need not say how many there are.
function lastFrame() {
  if (view() === "result") return firstFrame() + Math.max(0, video.tracked - 1);
  return Math.max(0, (video.frames || limits.frames) - 1, rows.at(-1)?.[0] || 0); // it may be wrong, too
}

// The frame that is seen: a player shows one until the next one is due.
function currentFrame() {
  if (view() !== "result") return shown;
  return firstFrame() + dueAt(times, $("player").currentTime);
}

function seek(frame) {
  const result = view() === "result", at = Math.min(Math.max(frame, result ? firstFrame() : 0), lastFrame());
  if (result) {
    $("player").pause();
    const place = at - firstFrame(), next = times[place + 1] ?? times[place] + 1 / video.fps;
    $("player").currentTime = (times[place] + next) / 2 - times[0]; // its middle, as times are rounded
  } else if (at !== shown) {
    shown = at;
    editor.show(at);
    picture.show(video.id, at);
    history.replaceState(null, "", `#${video.id}/draw/${at}`);
  }
  showFrame(at);
}

function showFrame(frame = currentFrame()) {
  const result = view() === "result", slider = $("slider");
  Object.assign(slider, { min: result ? firstFrame() : 0, max: lastFrame(), value: frame });
  slider.setAttribute("aria-valuetext", `frame ${frame}`);
  $("frame-text").textContent = `frame ${frame}${video.frames || result ? ` of ${lastFrame()}` : ""} · ${secondsOf(frame).toFixed(2)} s`;
  $("problem").hidden = $("plot-box").hidden = !rows.length;
  $("problem").disabled = !problems.length;
  plot();
}

function nextDoubt() {
  const now = currentFrame(), next = problems.find((frame) => frame > now) ?? problems[0];
  seek(next);
  say(readout(rows, next, secondsOf(next), nameOf));
}

// --- run ----------------------------------------------------------------------------------------------------------

async function watch() {
  const mine = ++polling;
  $("preview").src = `/api/videos/${video.id}/first`;
  let failures = 0;
  const running = () => ["waiting", "running"].includes(video.status);
  if (running()) show("run");
  while (mine === polling) {
    try {
      const answer = await ask(`/api/videos/${video.id}?after=${rows.length}`);
      if (mine !== polling) return;
      if (answer.run !== video.run) return open(answer.next === answer.rows.length ? answer : await ask(`/api/videos/${video.id}`));
      if (failures) complain("");
      failures = 0;
      video = answer;
      rows.push(...answer.rows);
      times = timesOf(rows);
      if (!running()) break;
      showProgress();
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
  if (mine !== polling) return;
  if (video.status === "failed" || !video.files.csv) {
    openDraw(shown);
    complain(video.error || "the run was stopped before it began");
  } else showResult();
}

let previewed = 0;

function showProgress() {
  const total = video.frames ? video.frames - Math.min(...video.targets.map((target) => target.boxes[0][0])) : 0;
  const share = total ? Math.min(1, video.tracked / total) : 0;
  $("percent").textContent = total ? `${Math.floor(share * 100)} %` : `${video.tracked}`;
  if (total) $("bar").value = share;
  else $("bar").removeAttribute("value");
  if (video.status === "waiting") {
    $("run-title").textContent = "Waiting in the queue";
    $("run-text").textContent = video.ahead > 0
      ? `${video.ahead} ${video.ahead === 1 ? "run is" : "runs are"} ahead of yours.` : "Yours is next.";
    say($("run-text").textContent);
  } else {
    $("run-title").textContent = "Tracking";
    const parts = [`Frame ${video.tracked}${total ? ` of ${total}` : ""}`];
    if (video.speed) parts.push(`${video.speed.toFixed(1)} frames per second`);
    if (video.speed && total) parts.push(`${duration((total - video.tracked) / video.speed)} left`);
    $("run-text").textContent = parts.join(" · ");
    say(total ? `${$("percent").textContent} tracked` : parts[0]);
    const now = Date.now();
    if (video.tracked && now - previewed > 600) {
      previewed = now;
      const latest = new Image();
      latest.onload = () => { $("preview").src = latest.src; };
      latest.src = `/api/videos/${video.id}/preview?${now}`;
    }
  }
  plot();
}

// --- result -------------------------------------------------------------------------------------------------------

function showResult() {
  const base = `/api/videos/${video.id}`, address = (role) => `${base}/${role}?run=${video.run}&download`;
  const player = $("player"), source = video.files.video ? `${base}/video?run=${video.run}` : "";
  $("get-video").hidden = !video.files.video;
  $("get-video").href = address("video");
  $("get-csv").href = address("csv");
  $("formats").replaceChildren(...Object.entries(FORMATS).filter(([role]) => video.files[role]).flatMap(([role, name], index) => {
    const link = Object.assign(document.createElement("a"), { id: `get-${role}`, href: address(role), download: "", textContent: name });
    return index ? [", ", link] : [link];
  }));
  const stopped = video.status === "stopped";
  $("result-title").textContent = stopped ? "Stopped" : "Done";
  const rate = video.seconds > 0 ? ` · ${(video.tracked / video.seconds).toFixed(1)} frames per second` : "";
  const limited = video.limited ? " The video is longer than the limit and was tracked up to it." : "";
  $("result-text").textContent = `${video.tracked} frames in ${duration(video.seconds)}${rate}.${limited} ${video.note}`.trim();
  $("shares").replaceChildren(...numbersOf(rows).map((number) => shareOf(rows, number, nameOf(number))));
  problems = doubts(rows);
  show("result");
  if (player.getAttribute("src") !== source) {
    player.src = source;
    // A stopped run is looked at where it stopped; a browser may want a click before it plays the other ones.
    player.addEventListener("loadedmetadata", () => (stopped ? seek(lastFrame()) : player.play().catch(() => {})), { once: true });
  }
  showFrame();
  say(`${$("result-title").textContent}: ${$("result-text").textContent}`);
}

const nameOf = (number) => video.targets[number - 1]?.name || `target ${number}`;

// --- plot ---------------------------------------------------------------------------------------------------------

let hovered = null; // the frame under the mouse

function span() {
  const first = firstFrame(), known = view() === "result" ? 0 : (video.frames || 0) - first;
  return { first, total: Math.max(known, video.tracked) || 1 };
}

function plot() {
  if (!video || view() === "bring") return;
  const seen = view() === "draw" || (view() === "result" && $("player").readyState);
  const frame = hovered ?? (seen ? currentFrame() : null);
  drawPlot($("plot"), rows, { ...span(), fps: video.fps, times, frame });
  $("plot-readout").textContent = frame === null ? "" : readout(rows, frame, secondsOf(frame), nameOf);
  const names = numbersOf(rows).map(nameOf);
  if ($("key").dataset.shown !== names.join("\n")) {
    $("key").dataset.shown = names.join("\n");
    $("key").replaceChildren(...names.map(keyOf));
  }
}

function animate() {
  if (view() !== "result") return;
  $("play").textContent = $("player").paused ? "Play" : "Pause";
  showFrame();
  if (!$("player").paused) requestAnimationFrame(animate);
}

// --- addresses: none for bringing a video, #id for its run or result, #id/draw/FRAME for its boxes ------------------

function go(place) {
  if (location.hash.slice(1) !== place) history.pushState(null, "", location.pathname + (place && `#${place}`));
  return route();
}

async function route() {
  const mine = ++polling;
  complain("");
  hovered = null;
  const [id, part, frame] = location.hash.slice(1).split("/");
  const known = /^[\w-]+$/.test(id) ? await ask(`/api/videos/${id}`).catch(() => null) : null;
  if (mine !== polling) return;
  if (known) return open(known, part, Number(frame) || 0);
  video = null;
  if (id) history.replaceState(null, "", location.pathname);
  $("player").removeAttribute("src");
  show("bring");
  await list();
}

function open(answer, part = "", frame = 0) {
  video = answer;
  $("title").textContent = video.title;
  const length = video.frames ? `${video.frames} frames · ${duration(video.frames / video.fps)}` : "length unknown";
  $("facts").textContent = `${video.width} × ${video.height} · ${+video.fps.toFixed(2)} frames per second · ${length}`;
  const width = `min(100%, calc(62vh * ${video.width / video.height}), ${Math.max(video.width * 2, 480)}px)`;
  $("stage").style.setProperty("--shown-width", width);
  rows = answer.rows;
  times = timesOf(rows);
  if (video.status === "ready" || part === "draw") openDraw(frame);
  else watch();
}

// What another tab did: a new list, boxes drawn there, a run begun there.
async function lookAgain() {
  if (document.hidden || saving !== null || editor.drag || view() === "run") return;
  if (view() === "bring") return list();
  const before = video, mine = polling;
  const now = await ask(`/api/videos/${before.id}?after=${rows.length}`).catch((error) => (error instanceof Refusal ? { run: -1 } : null));
  if (!now || mine !== polling || before !== video || saving !== null || editor.drag) return;
  if (now.run !== video.run) return go(now.run < 0 ? "" : video.id);
  if (now.edits === video.edits) return;
  Object.assign(video, { draft: now.draft, edits: now.edits });
  if (view() === "draw") {
    editor.open(video.width, video.height, video.draft, shown);
    allow();
  }
}

// --- wiring -------------------------------------------------------------------------------------------------------

const on = (id, type, action) => $(id).addEventListener(type, action);
on("file", "change", () => bringFile($("file").files[0], limits, go));
on("sample", "click", () => bringSample(go));
on("start", "click", start);
on("add", "click", () => { editor.add(); allow(); });
on("undo", "click", () => { proposals.close(); editor.undo(); });
on("result", "click", () => go(video.id));
on("again", "click", () => go(`${video.id}/draw`));
on("correct", "click", () => go(`${video.id}/draw/${currentFrame()}`));
on("stop", "click", async () => {
  const answer = await attempt(() => ask(`/api/videos/${video.id}/stop`, "POST", {}));
  if (answer) $("run-text").textContent = "Stopping …";
});
for (const button of document.querySelectorAll(".anew")) button.addEventListener("click", () => go(""));
on("error-close", "click", () => complain(""));
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault(); // a file dropped beside the field must not replace the page
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && view() === "bring") bringFile(event.dataTransfer.files[0], limits, go);
  });
}
on("play", "click", () => ($("player").paused ? $("player").play() : $("player").pause()));
on("player", "click", () => $("play").click());
for (const type of ["play", "seeked", "loadeddata", "pause"]) on("player", type, animate);
on("slider", "input", () => seek(Number($("slider").value)));
on("back", "click", () => seek(currentFrame() - 1));
on("forward", "click", () => seek(currentFrame() + 1));
on("problem", "click", nextDoubt);
on("zoom-in", "click", () => zoom.by(1.5));
on("zoom-out", "click", () => zoom.by(1 / 1.5));
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !["draw", "result"].includes(view()) || event.target.matches("input")) return; // the slider steps itself
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  seek(currentFrame() + step * (event.shiftKey ? 10 : 1));
});
on("plot", "pointermove", (event) => {
  const { first, total } = span();
  hovered = frameAt($("plot"), event.clientX, first, total);
  plot();
});
on("plot", "pointerleave", () => { hovered = null; plot(); });
on("plot", "click", () => { if (view() !== "run" && hovered !== null) seek(hovered); });
addEventListener("popstate", route); // back, forward, and the links of the list
setInterval(lookAgain, LOOK);
document.addEventListener("visibilitychange", lookAgain);
addEventListener("resize", plot);
for (const icon of document.querySelectorAll("svg[data-state]")) icon.append(...band(icon.dataset.state, 0.5, 0.5, 19, 10));

attempt(async () => {
  limits = await ask("/api/limits");
  const minutes = Math.round(limits.keep_seconds / 60);
  $("fine").textContent = `Up to ${size(limits.upload_bytes)}, ${limits.frames} frames and `
    + `${(limits.pixels / 1e6).toFixed(1)} megapixels. Your video stays on the computer that runs this page, `
    + `is seen by nobody else, and is deleted after ${minutes} ${minutes === 1 ? "minute" : "minutes"}.`;
  await route();
});
