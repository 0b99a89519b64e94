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

// The first change is shown at once; those that follow within a moment are one.
function refresh(part) {
  due.add(part);
  if (!timer) showDue();
}

function showDue() {
  timer = due.size ? setTimeout(showDue, GATHER_MS) : null;
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
  const source = new EventSource("/live");
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
}

let ticked = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  ticked = [...event.target.querySelectorAll("input[name=id]:checked")].map((box) => box.value);
});
document.addEventListener("htmx:afterSwap", () => {
  document.querySelectorAll("input[name=id]").forEach((box) => { if (ticked.includes(box.value)) box.checked = true; });
});
document.addEventListener("change", tickAll);
document.addEventListener("submit", ask);
follow();
