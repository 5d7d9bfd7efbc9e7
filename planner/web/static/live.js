// Updates pages with live rows. Without script, they show the state at which they were loaded.
(() => {
  "use strict";
  const main = document.querySelector("main[data-live]");
  if (!main) return;
  const interval = 3000;
  const update = async () => {
    // Do not replace content in which the user has the focus or has selected text.
    const busy = document.hidden || main.contains(document.activeElement) || String(window.getSelection());
    if (!busy) {
      try {
        const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const [next, foot] = [page.querySelector("main"), page.querySelector("footer")];
          if (next && !main.contains(document.activeElement)) {
            const note = main.querySelector(".note");
            next.querySelectorAll(".note").forEach((n) => n.remove());
            main.replaceChildren(...(note ? [note] : []), ...next.childNodes);
            document.querySelector("footer").replaceWith(foot);
            document.title = page.title;
          }
        }
      } catch {
        // The process may be restarting. The next update will show it.
      }
    }
    setTimeout(update, interval);
  };
  setTimeout(update, interval);
})();
