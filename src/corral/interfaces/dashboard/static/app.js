// The dashboard's only script: keeps a page up to date, and asks before a button does something.
"use strict";

(() => {
  const url = document.body.dataset.live;
  const state = document.getElementById("live-state");
  const log = document.getElementById("log");
  let source = null;

  function show(on) {
    if (!state) return;
    state.textContent = on ? "● live" : "○ connecting";
    state.classList.toggle("on", on);
  }

  // A part is replaced whole; whoever is in it with the keyboard, or has opened something, stays there.
  function replace(part, html) {
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && [...part.querySelectorAll("a, button, summary, [tabindex]")].indexOf(focused);
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    part.innerHTML = html; // rendered and escaped by the server
    part.querySelectorAll("details").forEach((one, number) => { if (number in open) one.open = open[number]; });
    if (focused) {
      const again = [...part.querySelectorAll("a, button, summary, [tabindex]")];
      (again[place] || part.closest("main")).focus({ preventScroll: true });
    }
  }

  function append(lines) {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.append(lines.map((line) => line + "\n").join(""));
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  function connect() {
    const address = new URL(url, location.href);
    if (log) address.searchParams.set("offset", log.dataset.next);
    source = new EventSource(address);
    source.onopen = () => show(true);
    source.addEventListener("part", (event) => {
      const { id, html } = JSON.parse(event.data);
      const part = document.getElementById("part-" + id);
      if (part) replace(part, html);
    });
    source.addEventListener("log", (event) => {
      const { lines, next } = JSON.parse(event.data);
      append(lines);
      log.dataset.next = next;
    });
    source.addEventListener("gone", () => {
      const notice = document.getElementById("gone");
      if (notice) notice.hidden = false;
      source.close();
      show(false);
      if (state) state.textContent = "";
    });
    source.onerror = () => {
      // Not left to the browser: it would ask for the log from the old place.
      source.close();
      show(false);
      setTimeout(connect, 2000);
    };
  }

  if (url) {
    show(false);
    connect();
    addEventListener("pagehide", () => source && source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  }

  const dialog = document.getElementById("ask");
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.ask || form.elements.confirmed) return;
    event.preventDefault();
    document.getElementById("ask-question").textContent = form.dataset.ask;
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue !== "yes") return;
      const yes = document.createElement("input");
      yes.type = "hidden";
      yes.name = "confirmed";
      yes.value = "yes";
      form.append(yes);
      document.body.contains(form) ? form.submit() : document.body.appendChild(form).submit();
    };
    dialog.showModal();
  });
})();
