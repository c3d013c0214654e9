// What a script adds: a running run's news, answers without loading the page, and selects that take effect at once.
// Everything it puts into the page was drawn and escaped by the server. Without it every page still works.
"use strict";

for (const field of document.querySelectorAll("[data-submits]")) takesEffect(field);

// A click chooses at once. Keys go through the choices one by one: Enter, or leaving the field, takes the last.
function takesEffect(field) {
  let keyed = false, changed = false;
  const take = () => {
    if (keyed) sessionStorage.setItem("focused", field.id);
    choose(field);
  };
  field.addEventListener("pointerdown", () => { keyed = false; });
  field.addEventListener("keydown", (event) => {
    keyed = true;
    if (event.key === "Enter" && changed) {
      event.preventDefault();
      take();
    }
  });
  field.addEventListener("change", () => {
    changed = true;
    if (!keyed) take();
  });
  field.addEventListener("blur", () => { if (keyed && changed) choose(field); });
  if (sessionStorage.getItem("focused") === field.id) {
    sessionStorage.removeItem("focused");
    field.focus();
  }
}

function choose(field) {
  const form = field.form;
  if (!form.hasAttribute("data-talk")) return form.requestSubmit();
  carry(form);
  const asked = new URLSearchParams({ run: form.elements.run.value, task: form.elements.task.value });
  location.assign(`/playground?${asked}`);
}

// A page that is gone back to shows what it was made for, and so do its selects; what was typed stays typed.
addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("select[data-submits]")) {
    field.selectedIndex = Math.max(0, [...field.options].findIndex((one) => one.defaultSelected));
  }
});

const live = document.querySelector("[data-live]");
if (live) watch(live);

function watch(live) {
  const status = live.querySelector("[data-live-status]");
  const pause = live.querySelector("[data-pause]");
  const source = new EventSource(live.dataset.live);
  let waiting = null;
  live.hidden = false;

  source.addEventListener("open", () => { status.textContent = "live"; });
  source.addEventListener("error", () => { status.textContent = "the connection is lost; trying again"; });
  source.addEventListener("news", (event) => {
    const news = JSON.parse(event.data);
    if (pause.getAttribute("aria-pressed") === "true") waiting = news;
    else show(news);
  });
  source.addEventListener("end", () => {
    source.close();
    status.textContent = "the run has come to its end";
    if (waiting) show(waiting);
    pause.hidden = true;
  });
  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on with the updates" : "Pause the updates";
    status.textContent = paused ? "paused" : "live";
    if (!paused && waiting) show(waiting);
    if (!paused) waiting = null;
  });
}

function show(news) {
  for (const [name, html] of Object.entries(news)) {
    const part = document.querySelector(`[data-part="${name}"]`);
    // What somebody is reading or has opened stays as it is.
    if (!part || part.contains(document.activeElement) || part.querySelector("details[open]")) continue;
    part.innerHTML = html;
  }
}

const rooms = document.querySelector(".rooms[data-awaited]");
if (rooms) setTimeout(look, 1500, rooms);

// Services that are not ready yet: their list is brought anew until they are.
async function look(rooms) {
  const reply = await fetch("/", { headers: { Accept: "text/html" } });
  const now = new DOMParser().parseFromString(await reply.text(), "text/html").querySelector(".rooms");
  if (!now) return;
  rooms.replaceChildren(...now.children);
  if (now.hasAttribute("data-awaited")) setTimeout(look, 1500, rooms);
}

const talk = document.querySelector("[data-talk]");
if (talk) {
  unpack(talk);
  ask(talk);
}

// What was typed goes along to the next page. A message that the student wrote belongs to the task it is about.
function carry(form) {
  const message = form.elements.message.value;
  const typed = { message: message === form.dataset.written ? "" : message, tests: form.elements.tests.value };
  sessionStorage.setItem("typed", JSON.stringify(typed));
}

function unpack(form) {
  const typed = JSON.parse(sessionStorage.getItem("typed") || "{}");
  sessionStorage.removeItem("typed");
  for (const [name, value] of Object.entries(typed)) if (value) form.elements[name].value = value;
  const kept = form.querySelector("[data-kept]");
  if (kept) kept.hidden = !form.elements.tests.value.trim();
}

function ask(form) {
  const answer = document.getElementById("answer");
  const hint = form.querySelector("[data-hint]");
  hint.textContent = "Ctrl + Enter sends too";
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(form.querySelector("[name=by][value=you]"));
  });
  form.addEventListener("submit", async (event) => {
    const button = event.submitter;
    if (!button || button.formMethod === "get") return;
    event.preventDefault();
    const body = new URLSearchParams(new FormData(form, button));
    const buttons = [...form.querySelectorAll("button:enabled")];
    for (const one of buttons) one.disabled = true;
    answer.setAttribute("aria-busy", "true");
    hint.textContent = button.value === "student" ? "the student is writing" : "on its way";
    try {
      const reply = await fetch("/playground", { method: "POST", body, headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      const came = page.getElementById("answer");
      if (!came) throw new Error(`the server said ${reply.status}`);
      answer.replaceChildren(...came.childNodes);
      if (button.value === "student") {
        form.elements.message.value = page.getElementById("message").value;
        form.dataset.written = form.elements.message.value;
      }
      hint.textContent = "";
    } catch (error) {
      hint.textContent = `no answer: ${error.message}; is the playground still running?`;
    } finally {
      for (const one of buttons) one.disabled = false;
      answer.removeAttribute("aria-busy");
      button.focus();
      if (innerWidth < 992) answer.scrollIntoView();
    }
  });
}
