"use strict";
// Brings a file to the staging directory piece by piece. What was begun is remembered by name, size and time of the file, so
// the same file goes on where it ended: after a lost connection by itself, after a reload when it is chosen again.

const PIECE = 64 * 1024 * 1024;
// Browsers compute a checksum only of what they hold in memory.
const SUMMED = 256 * 1024 * 1024;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30000;

const form = document.getElementById("upload");
const part = (name) => document.getElementById("upload-" + name);
const say = (text) => { part("said").textContent = text; };
let running = null;

// An answer that will not be another one when it is asked for again.
class Refused extends Error {}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

function memory(file) {
  return ["upload", file.name, file.size, file.lastModified].join(":");
}

// Why something is refused, in words.
function reason(answer) {
  try {
    return JSON.parse(answer.responseText).detail;
  } catch {
    return answer.responseText;
  }
}

function send(method, url, headers, body, upload) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    request.setRequestHeader("Tus-Resumable", "1.0.0");
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => upload && upload.onprogress(event.loaded);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error("lost"));
    request.onabort = () => reject(new Error("aborted"));
    if (upload) upload.request = request;
    request.send(body);
  });
}

async function sumOf(file) {
  const typed = part("sum").value.trim();
  if (typed || file.size > SUMMED || !window.crypto.subtle) return typed;
  say(form.dataset.summing);
  const sum = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(sum)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function begin(file) {
  const words = { filename: part("name").value.trim() || file.name, overwrite: String(part("overwrite").checked) };
  const sum = await sumOf(file);
  if (sum) words.sha256 = sum;
  const metadata = Object.entries(words).map(([name, value]) => name + " " + base64(value)).join(",");
  const answer = await send("POST", form.dataset.to, { "Upload-Length": file.size, "Upload-Metadata": metadata });
  if (answer.status !== 201) throw new Refused(reason(answer));
  return answer.getResponseHeader("Location");
}

// Where it goes on; null: it is not there any more.
async function offsetOf(url) {
  const answer = await send("HEAD", url, {});
  if (answer.status === 404) return null;
  if (answer.status !== 200) throw new Error("later");
  return Number(answer.getResponseHeader("Upload-Offset"));
}

function show(file, bytes) {
  const percent = file.size ? Math.floor(bytes / file.size * 100) : 100;
  part("course").querySelector("progress").value = percent;
  part("course").querySelector("span").textContent = percent + " %";
}

async function bring(file, upload) {
  const key = memory(file);
  upload.url = localStorage.getItem(key);
  let offset = upload.url ? await offsetOf(upload.url) : null;
  if (offset === null) {
    upload.url = await begin(file);
    localStorage.setItem(key, upload.url);
    offset = 0;
  }
  say(form.dataset.uploading);
  do {
    if (upload.paused) return false;
    show(file, offset);
    upload.onprogress = (bytes) => show(file, offset + bytes);
    const headers = { "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
    const answer = await send("PATCH", upload.url, headers, file.slice(offset, offset + PIECE), upload);
    if ([408, 409, 423, 429].includes(answer.status) || answer.status >= 500 && answer.status !== 507) throw new Error("later");
    if (answer.status === 460) localStorage.removeItem(key);
    if (answer.status !== 204) throw new Refused(reason(answer));
    offset = Number(answer.getResponseHeader("Upload-Offset"));
    upload.wait = FIRST_WAIT_MS;
  } while (offset < file.size);
  localStorage.removeItem(key);
  return true;
}

function controls(busy) {
  for (const name of ["file", "name", "sum", "overwrite"]) part(name).disabled = busy;
  form.querySelector("button").disabled = busy;
  part("pause").hidden = part("discard").hidden = !busy;
  part("course").hidden = false;
}

async function run(file) {
  const upload = running = { wait: FIRST_WAIT_MS, paused: false };
  controls(true);
  show(file, 0);
  while (running === upload) {
    try {
      if (await bring(file, upload)) say(form.dataset.done);
      break;
    } catch (error) {
      if (error instanceof Refused) { say(error.message); break; }
      if (upload.paused) break;
      say(form.dataset.lost);
      await new Promise((resolve) => setTimeout(resolve, upload.wait));
      upload.wait = Math.min(upload.wait * 2, LONGEST_WAIT_MS);
    }
  }
  if (upload.paused) say(upload.discarded ? "" : form.dataset.paused);
  running = null;
  controls(false);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const file = part("file").files[0];
  if (file && !running) run(file);
});
part("pause").addEventListener("click", () => {
  running.paused = true;
  if (running.request) running.request.abort();
});
part("discard").addEventListener("click", async () => {
  const upload = running;
  upload.paused = upload.discarded = true;
  if (upload.request) upload.request.abort();
  localStorage.removeItem(memory(part("file").files[0]));
  if (upload.url) await send("DELETE", upload.url, {});
});
addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
