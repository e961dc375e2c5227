(() => {
  "use strict";
  const EVERY_MS = 3000, WITHIN_MS = 10000;
  const live = document.getElementById("live"), page = document.getElementById("page");
  let timer = 0, asking = null, answered = new Date();

  const say = (state, text) => {
    live.hidden = false;
    page.classList.toggle("stale", state === "away");
    if (live.dataset.state !== state) { live.dataset.state = state; live.textContent = text; }
  };

  // Make `old` what `fresh` is, and leave alone what is the same: so focus, selection, scrolling and open details stay.
  const become = (old, fresh) => {
    for (const { name } of [...old.attributes])
      if (!fresh.hasAttribute(name) && !(name === "open" && old.tagName === "DETAILS")) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes)
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    let here = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const wanted = child.id && [...old.children].find((one) => one.id === child.id);
      if (wanted && wanted !== here) {
        // what stood in between and is not wanted any more goes; only what changed places is moved
        while (here && here !== wanted && !(here.id && fresh.querySelector(`:scope > #${CSS.escape(here.id)}`))) {
          const next = here.nextSibling; here.remove(); here = next;
        }
        if (here !== wanted) { old.insertBefore(wanted, here); here = wanted; }
      }
      const same = here && here.nodeType === child.nodeType && here.nodeName === child.nodeName && (here.id || "") === (child.id || "");
      if (!same) { old.insertBefore(child, here); continue; }
      if (here.nodeType !== Node.ELEMENT_NODE) { if (here.data !== child.data) here.data = child.data; }
      else if (!("keep" in here.dataset) && !here.isEqualNode(child)) become(here, child);
      here = here.nextSibling;
    }
    while (here) { const next = here.nextSibling; here.remove(); here = next; }
  };

  const refresh = async () => {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = new AbortController();
    const late = setTimeout(() => asking.abort(), WITHIN_MS);
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" }, signal: asking.signal });
      if (answer.redirected) { location.reload(); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      answered = new Date();
      document.title = fresh.title;
      become(page, fresh.getElementById("page"));
      say("live", "live");
    } catch {
      say("away", `no answer since ${answered.toLocaleTimeString([], { hour12: false })}`);
    } finally {
      clearTimeout(late);
      asking = null;
      timer = setTimeout(refresh, EVERY_MS);
    }
  };

  document.addEventListener("visibilitychange", () => document.hidden ? say("paused", "paused") : refresh());
  say("live", "live");
  timer = setTimeout(refresh, EVERY_MS);
})();
