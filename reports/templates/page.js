(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip"), dialog = document.getElementById("record");
  const form = document.getElementById("filters");
  const all = (selector) => [...document.querySelectorAll(selector)];

  // What a mark says: on hover, on focus, on tap.
  const show = (mark) => {
    all(".pt.on").forEach((other) => other.classList.remove("on"));
    mark.classList.add("on");
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(4, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 4);
    tip.style.left = left + "px";
    tip.style.top = (box.top > own.height + 8 ? box.top - own.height - 6 : box.bottom + 6) + "px";
  };
  const hide = () => { tip.hidden = true; all(".pt.on").forEach((mark) => mark.classList.remove("on")); };

  const open = (id) => {
    const record = data[id];
    if (!record) return;
    hide();
    document.getElementById("record-title").textContent = record.label + " " + id;
    const list = dialog.querySelector("dl");
    list.replaceChildren();
    const rows = [["setting", record.setting], ["seed", record.seed], ["status", record.status], ["accuracy", record.score],
      ["GMACs", record.gmacs], ["milliseconds", record.ms], ["density", record.density],
      ...Object.entries(record.parameters), ...Object.entries(record.provenance)];
    for (const [name, value] of rows) {
      if (value === "" || value === null) continue;
      const term = document.createElement("dt"), said = document.createElement("dd");
      term.textContent = name;
      said.textContent = value;
      list.append(term, said);
    }
    dialog.showModal();
  };

  let tapped = null;
  for (const mark of all(".pt")) {
    mark.addEventListener("pointerenter", () => show(mark));
    mark.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });
    mark.addEventListener("focus", () => show(mark));
    mark.addEventListener("blur", hide);
    mark.addEventListener("click", (event) => {
      // A finger has no hover: its first tap says, its second opens.
      if (event.pointerType === "touch" && tapped !== mark) { tapped = mark; show(mark); return; }
      open(mark.dataset.cell);
    });
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(mark.dataset.cell); }
      if (event.key === "Escape") hide();
    });
  }
  for (const button of all("button.record")) button.addEventListener("click", () => open(button.dataset.cell));

  // Filters live in the address, so that a link keeps them.
  const apply = () => {
    const chosen = Object.fromEntries(new FormData(form));
    const wrong = (name, value) => chosen[name] && value !== undefined && chosen[name] !== value;
    for (const part of all("[data-task],[data-method],[data-seed]")) {
      const { task, scale, method, seed } = part.dataset;
      part.classList.toggle("off", Boolean(wrong("task", task) || wrong("scale", scale) || wrong("method", method) || wrong("seed", seed)));
    }
  };
  const write = () => {
    const chosen = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", "#" + chosen);
    apply();
  };
  const read = () => {
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const select of form.querySelectorAll("select")) {
      const value = chosen.get(select.name) || "";
      select.value = [...select.options].some((option) => option.value === value) ? value : "";
    }
    apply();
  };
  form.addEventListener("change", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(write));
  addEventListener("hashchange", read);
  for (const link of all("[data-jump]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.querySelector(link.getAttribute("href")).scrollIntoView();
    });
  }
  read();
})();
