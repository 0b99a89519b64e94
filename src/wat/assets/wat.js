"use strict";
// What pages need besides being pages: they change when something else changes, they ask before they delete, and what
// was ticked stays ticked. Everything works without, too.

const POLL_MS = 5000;
const GATHER_MS = 250;

function parts() {
  return document.querySelectorAll("[data-kinds]");
}

function concerned(part, change) {
  const kinds = part.dataset.kinds.split(" ");
  return kinds.includes(change.kind) && (!part.dataset.id || part.dataset.id === String(change.id));
}

let due = new Set();
let timer = null;
// A page that is about to go changes no more.
let leaving = false;

// The first change is shown at once; those that follow within a moment are one.
function refresh(part) {
  due.add(part);
  if (!timer) showDue();
}

function showDue() {
  timer = due.size ? setTimeout(showDue, GATHER_MS) : null;
  if (leaving) return;
  for (const each of due) if (each.isConnected) window.htmx.trigger(each, "changed");
  due = new Set();
}

function follow() {
  const sign = document.getElementById("live");
  if (!sign || !parts().length) return;
  let poll = null;
  const live = (is) => {
    sign.className = "live " + (is ? "on" : "off");
    sign.textContent = is ? sign.dataset.live : sign.dataset.polling;
    if (is) { clearInterval(poll); poll = null; }
    else if (!poll) poll = setInterval(() => parts().forEach(refresh), POLL_MS);
  };
  const source = new EventSource("/live?heard=" + sign.dataset.heard);
  source.addEventListener("change", (event) => {
    const change = JSON.parse(event.data);
    parts().forEach((part) => { if (concerned(part, change)) refresh(part); });
  });
  // Something may have been missed.
  source.addEventListener("gap", () => parts().forEach(refresh));
  source.addEventListener("state", (event) => live(event.data === "live"));
  source.addEventListener("error", () => live(false));
  addEventListener("pagehide", () => source.close());
}

function tickAll(event) {
  if (!event.target.matches("input[data-all]")) return;
  event.target.closest("form").querySelectorAll("input[name=id]").forEach((box) => { box.checked = event.target.checked; });
}

function ask(event) {
  const question = event.submitter && event.submitter.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
  leaving = !event.defaultPrevented;
}

// What is gone is not shown as if it were there.
function gone(event) {
  if (event.detail.xhr.status === 404 && !leaving) location.reload();
}

// A part that is shown anew goes on as it was: what is ticked and unfolded, where the focus is, how far it was moved.
const BOXES = "input[type=checkbox][name]";
let kept = null;

function likeIt(element) {
  const told = ["name", "value", "href", "data-all"].filter((name) => element.hasAttribute(name));
  return element.localName + told.map((name) => `[${name}="${CSS.escape(element.getAttribute(name))}"]`).join("");
}

function boxOf(box) {
  return box.name + "=" + box.value;
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target, at = document.activeElement, wide = part.querySelector(".wide");
  kept = {
    ticked: new Set([...part.querySelectorAll(BOXES + ":checked")].map(boxOf)),
    focus: part.contains(at) && at !== part ? likeIt(at) : null,
    moved: wide ? wide.scrollLeft : 0,
    unfolded: [...part.querySelectorAll("details[id][open]")].map((details) => details.id),
  };
});
document.addEventListener("htmx:afterSwap", (event) => {
  // A form's `id` is its field of that name.
  const part = document.getElementById(event.detail.target.getAttribute("id"));
  if (!part || !kept) return;
  part.querySelectorAll(BOXES).forEach((box) => { if (kept.ticked.has(boxOf(box))) box.checked = true; });
  kept.unfolded.forEach((id) => part.querySelector("#" + CSS.escape(id))?.setAttribute("open", ""));
  const wide = part.querySelector(".wide");
  if (wide) wide.scrollLeft = kept.moved;
  if (kept.focus && document.activeElement === document.body) part.querySelector(kept.focus)?.focus({ preventScroll: true });
});
document.addEventListener("change", tickAll);
document.addEventListener("submit", ask);
document.addEventListener("htmx:responseError", gone);
addEventListener("pageshow", () => { leaving = false; });
follow();
