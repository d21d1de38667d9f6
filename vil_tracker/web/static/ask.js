// Asking the server, and saying what went wrong.
export const $ = (id) => document.getElementById(id);

export class Refusal extends Error {}

export function complain(message) {
  $("error-text").textContent = message || "";
  $("error").hidden = !message;
}

export async function ask(path, method = "GET", content = undefined) {
  const options = { method, headers: { "X-ViL-Tracker": "1" } };
  if (content !== undefined) options.body = JSON.stringify(content);
  const response = await fetch(path, options);
  if (response.ok && response.headers.get("content-type").startsWith("image/")) return response.blob();
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(answer.error || `the server answered ${response.status}`);
  return answer;
}

export async function attempt(action) {
  complain("");
  try {
    return await action();
  } catch (error) {
    complain(error instanceof Refusal ? error.message : "the server does not answer: is it still running?");
    return null;
  }
}

export function size(bytes) {
  const megabytes = bytes / 2 ** 20;
  return megabytes >= 1024 ? `${(megabytes / 1024).toFixed(1)} GB` : `${Math.max(1, Math.round(megabytes))} MB`;
}

export function duration(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/videos?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("X-ViL-Tracker", "1");
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.loaded, event.total);
    request.onerror = () => reject(new Refusal("the upload broke off: the file may be no video, or the server is gone"));
    request.onload = () => request.status === 201
      ? resolve(request.response) : reject(new Refusal(request.response?.error || `the server answered ${request.status}`));
    request.send(file);
  });
}

// What a screen reader says meanwhile: at most one message in two seconds, and the latest one in the end.
const QUIET = 2000;
let spoken = 0, waiting = null;

export function say(text) {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    spoken = Date.now();
    if ($("live").textContent !== text) $("live").textContent = text;
  }, Math.max(0, spoken + QUIET - Date.now()));
}
