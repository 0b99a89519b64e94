// The desktop of a VM, shown by noVNC. The page has a ticket for it, which is good once.
import RFB from "/novnc/core/rfb.js";
import { initLogging } from "/novnc/core/util/logging.js";

const RETURN = 0xff0d;
const frame = document.getElementById("spy");
const said = document.getElementById("spy-said");
const interactive = frame.dataset.interactive === "true";

// What is said when it ends and the code of the end says nothing.
let closed = said.dataset.closed;

function end(code) {
  const told = document.querySelector(`#spy-endings [data-code="${code}"]`);
  said.textContent = told ? told.textContent : closed;
  said.classList.toggle("problem", Boolean(told));
  frame.dataset.state = "ended";
  for (const id of ["spy-end", "spy-full", "spy-type"]) document.getElementById(id)?.remove();
}

said.textContent = said.dataset.waiting;
const address = new URL(frame.dataset.stream, location.href);
address.protocol = address.protocol.replace("http", "ws");
const socket = new WebSocket(address, ["binary"]);
socket.addEventListener("close", (event) => end(event.code));

// How it ends is said by the page.
initLogging("none");
const rfb = new RFB(frame, socket, { shared: true });
rfb.viewOnly = !interactive;
rfb.scaleViewport = true;
rfb.background = "transparent";
rfb.addEventListener("connect", () => {
  said.textContent = said.dataset.shown;
  frame.dataset.state = "shown";
  if (interactive) rfb.focus();
});
rfb.addEventListener("credentialsrequired", () => {
  closed = said.dataset.password;
  rfb.disconnect();
});

document.getElementById("spy-end").addEventListener("click", () => rfb.disconnect());
document.getElementById("spy-full").addEventListener("click", () => frame.requestFullscreen?.());

// Before the desktop gets the key: else whoever works without a mouse would not come out of it.
frame.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !event.shiftKey) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  rfb.blur();
  document.getElementById("spy-end").focus();
}, true);

// Phones have no keyboard before there is a field to type into. The key symbol of a character is its number in Latin-1, else in Unicode.
document.getElementById("spy-type")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = event.target.querySelector("input");
  for (const character of field.value) {
    const point = character.codePointAt(0);
    rfb.sendKey(point < 0x100 ? point : 0x01000000 + point, null);
  }
  if (!field.value) rfb.sendKey(RETURN, "Enter");
  field.value = "";
});
