// Keeps a page current: the server sends its main part again whenever that has changed, and only what differs is
// changed in the page. A player goes on playing, an open detail stays open, focus stays where it was.
"use strict";

const main = document.getElementById("main");
const content = document.getElementById("content");
const badge = document.getElementById("live");

function say(state, text) {
  badge.dataset.state = state;
  badge.lastElementChild.textContent = text;
}

function keyOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return "";
  const heading = node.nodeName === "SECTION" && node.querySelector("h2");
  return node.dataset.key || node.dataset.keep || (heading ? heading.textContent : "");
}

function isSame(old, fresh) {
  return old.nodeName === fresh.nodeName && keyOf(old) === keyOf(fresh);
}

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.dataset.keep && old.getAttribute("src") === fresh.getAttribute("src")) return;
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  let current = old.firstChild;
  const drop = () => {
    const gone = current;
    current = current.nextSibling;
    gone.remove();
  };
  wanted.forEach((next, place) => {
    const isNeeded = (node) =>
      node.nodeType === Node.ELEMENT_NODE && wanted.some((later, at) => at > place && isSame(node, later));
    while (current && !isSame(current, next) && !isNeeded(current)) drop();
    if (current && isSame(current, next)) {
      const kept = current;
      current = current.nextSibling;
      morph(kept, next);
    } else {
      old.insertBefore(next, current);
    }
  });
  while (current) drop();
}

function show(html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  morphChildren(content, fresh.content);
}

if (main.dataset.page) {
  const source = new EventSource(`${main.dataset.events}?page=${encodeURIComponent(main.dataset.page)}`);
  source.addEventListener("open", () => say("on", "Live"));
  source.addEventListener("error", () => say("off", "Reconnecting"));
  source.addEventListener("page", (event) => {
    say("on", "Live");
    show(event.data);
  });
  source.addEventListener("trouble", (event) => say("off", event.data));
  window.addEventListener("pagehide", () => source.close());
}

document.addEventListener("submit", (event) => {
  const question = event.submitter && event.submitter.dataset.sure;
  if (question && !window.confirm(question)) event.preventDefault();
});
