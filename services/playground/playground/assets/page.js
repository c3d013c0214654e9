// What a script adds: a running run's news, answers without loading the page, and selects that take effect at once.
// Everything it puts into the page was drawn and escaped by the server. Without it every page still works.
"use strict";

for (const field of document.querySelectorAll("[data-submits]")) {
  field.addEventListener("change", () => {
    const form = field.form;
    if (!form.hasAttribute("data-talk")) return form.requestSubmit();
    // The message belongs to the task that was chosen before.
    const asked = new URLSearchParams({ run: form.elements.run.value, task: form.elements.task.value });
    location.assign(`/playground?${asked}`);
  });
}

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

const talk = document.querySelector("[data-talk]");
if (talk) ask(talk);

function ask(form) {
  const answer = document.getElementById("answer");
  const hint = form.querySelector("[data-hint]");
  hint.textContent = "Ctrl + Enter sends too";
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(form.querySelector("[name=by][value=you]"));
  });
  form.addEventListener("submit", async (event) => {
    const button = event.submitter;
    if (!button || button.value === "show") return;
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
      if (button.value === "student") form.elements.message.value = page.getElementById("message").value;
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
