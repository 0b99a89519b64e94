"use strict";
// What is chosen in a list stays chosen on its other pages and under other filters, as long as the browser's tab lives. The
// numbers of what is chosen are kept here, and go with the form to what is done with them. Without this, what is ticked on one
// page or all that a filter finds can be chosen.

const bar = document.getElementById("chosen");
const list = document.getElementById("list");
const said = bar.querySelector("[role=status]");
const all = bar.querySelector("[data-choose=all]");
const none = bar.querySelector("[data-choose=none]");
let chosen = new Set();
// The form's fields are also read when the list is asked for anew.
let leaves = false;

function recall() {
  try {
    chosen = new Set(JSON.parse(sessionStorage.getItem(bar.dataset.key)) || []);
  } catch {
    // A browser that keeps nothing forgets at the end of the page.
  }
}

function keep() {
  try {
    if (chosen.size) sessionStorage.setItem(bar.dataset.key, JSON.stringify([...chosen]));
    else sessionStorage.removeItem(bar.dataset.key);
  } catch {
    // The same.
  }
  show();
}

// The list is made anew when something changes elsewhere.
function boxes() {
  return [...list.querySelectorAll("input[name=id]")];
}

function show() {
  const here = boxes();
  for (const box of here) box.checked = chosen.has(box.value);
  const ticked = here.filter((box) => box.checked).length;
  const whole = list.querySelector("input[data-all]");
  whole.checked = ticked > 0 && ticked === here.length;
  whole.indeterminate = ticked > 0 && ticked < here.length;
  const total = document.getElementById("total").textContent;
  all.hidden = total === String(here.length);
  all.querySelector("span").textContent = total;
  none.hidden = !chosen.size;
  bar.classList.toggle("some", chosen.size > 0);
  const count = chosen.size + " " + (chosen.size === 1 ? bar.dataset.one : bar.dataset.many);
  say(count + (ticked < chosen.size ? ", " + ticked + " " + bar.dataset.here : ""));
  for (const button of bar.querySelectorAll("button[name=verb]")) {
    button.disabled = !chosen.size;
    // With one it is asked before what cannot be undone, with several always.
    const question = chosen.size === 1 ? button.dataset.one : button.dataset.many.replace("{}", chosen.size);
    if (chosen.size > 1 || button.matches(".dangerous")) button.dataset.confirm = question;
    else delete button.dataset.confirm;
  }
}

// Only what is new is read out.
function say(text) {
  if (said.textContent !== text) said.textContent = text;
}

document.addEventListener("change", (event) => {
  if (!event.target.matches("#list input[name=id], #list input[data-all]")) return;
  for (const box of boxes()) {
    if (box.checked) chosen.add(box.value);
    else chosen.delete(box.value);
  }
  keep();
});

all.addEventListener("click", async () => {
  all.disabled = true;
  try {
    const answer = await fetch(bar.dataset.ids);
    if (!answer.ok) throw new Error(answer.statusText);
    for (const id of await answer.json()) chosen.add(String(id));
    keep();
  } catch {
    say(bar.dataset.lost);
  }
  all.disabled = false;
});

none.addEventListener("click", () => {
  chosen.clear();
  keep();
  // The button is gone.
  list.querySelector("input[data-all]").focus();
});

// Blanks take one byte in a form.
list.addEventListener("formdata", (event) => {
  if (!leaves) return;
  event.formData.delete("id");
  event.formData.set("ids", [...chosen].join(" "));
});

// It is done, and over.
document.addEventListener("submit", (event) => {
  if (event.target !== list || event.defaultPrevented) return;
  leaves = true;
  try {
    sessionStorage.removeItem(bar.dataset.key);
  } catch {
    // Nothing is kept.
  }
});

document.addEventListener("htmx:afterSwap", () => {
  recall();
  show();
});
addEventListener("pageshow", () => {
  leaves = false;
  recall();
  show();
});
document.documentElement.classList.add("with-script");
