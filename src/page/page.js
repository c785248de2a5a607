"use strict";
// The page is whole without this. It adds a card for marks and rows, switches for series and
// colours, and sorting, filtering and choosing of columns. No library and no network.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const { data, ...rest } = properties;
    const element = Object.assign(document.createElement(tag), rest);
    Object.assign(element.dataset, data);
    element.append(...children);
    return element;
  };
  const rows = new Map(all("tr[data-row]").map((row) => [row.dataset.row, row]));

  // Colours: as the system has them, or as the reader wants them.
  const root = document.documentElement;
  const themes = ["system", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const theme = make("button", { id: "theme", type: "button" });
  const setTheme = (name) => {
    if (name === "system") delete root.dataset.theme; else root.dataset.theme = name;
    theme.textContent = "Colours: " + name;
    theme.value = name;
    try { localStorage.setItem("theme", name); } catch { /* a file may not store anything */ }
  };
  theme.addEventListener("click", () =>
    setTheme(themes[(themes.indexOf(theme.value) + 1) % themes.length]));
  setTheme(themes.includes(stored()) ? stored() : "system");
  document.querySelector("header").append(theme);

  // The card of a mark or of a row of points.
  const card = make("div", { id: "card", hidden: true });
  card.setAttribute("role", "status");
  document.body.append(card);
  let kept = null;
  const fill = (source, isKept) => {
    const row = source.matches("tr") ? source : rows.get(source.dataset.point);
    card.replaceChildren();
    const text = source.getAttribute("aria-label");
    if (text) card.append(make("p", { textContent: text }));
    if (row && !text) {
      const names = all("th", row.closest("table")).map((th) => th.textContent);
      const cells = [...row.cells].map((cell, at) => [names[at], cell.textContent]);
      const pairs = cells.filter(([, value]) => value).flatMap(([name, value]) =>
        [make("dt", { textContent: name }), make("dd", { textContent: value })]);
      card.append(make("dl", {}, ...pairs));
    }
    const command = row?.dataset.command;
    if (command) card.append(make("pre", { textContent: command }));
    if (!isKept) return;
    const actions = make("div", { className: "actions" });
    if (command) {
      const copy = make("button", { type: "button", textContent: "Copy command" });
      copy.addEventListener("click", async () => {
        getSelection().selectAllChildren(card.querySelector("pre"));
        try { await navigator.clipboard.writeText(command); } catch { document.execCommand("copy"); }
        copy.textContent = "Copied";
      });
      actions.append(copy);
    }
    if (row && row !== source) {
      const go = make("button", { type: "button", textContent: "Show row" });
      go.addEventListener("click", () => {
        close();
        all("tr.found").forEach((other) => other.classList.remove("found"));
        row.classList.remove("hidden");
        row.classList.add("found");
        row.tabIndex = -1;
        row.scrollIntoView({ block: "center" });
        row.focus({ preventScroll: true });
      });
      actions.append(go);
    }
    const shut = make("button", { type: "button", textContent: "Close" });
    shut.addEventListener("click", () => close(true));
    actions.append(shut);
    card.append(actions);
  };
  const place = (x, y) => {
    const right = Math.max(4, innerWidth - card.offsetWidth - 8);
    const fits = y + 16 + card.offsetHeight < innerHeight;
    card.style.left = Math.min(x + 12, right) + "px";
    card.style.top = Math.max(4, fits ? y + 16 : y - card.offsetHeight - 8) + "px";
  };
  const show = (source, x, y, isKept = false) => {
    fill(source, isKept);
    card.hidden = false;
    place(x, y);
  };
  const close = (goesBack = false) => {
    const source = kept;
    kept?.classList.remove("kept");
    kept = null;
    card.hidden = true;
    if (goesBack) source?.focus();
    card.hidden = true;
  };
  const middle = (source) => {
    const box = source.getBoundingClientRect();
    return [box.x + Math.min(box.width, 200) / 2, box.y + box.height / 2];
  };
  const keep = (source, x, y) => {
    if (kept) close();
    kept = source;
    source.classList.add("kept");
    show(source, x, y, true);
  };
  const shown = ".mark, tr[data-row]";
  document.addEventListener("pointermove", (event) => {
    if (kept || event.pointerType === "touch") return;
    const source = event.target.closest?.(".mark");
    if (source) show(source, event.clientX, event.clientY);
    else card.hidden = true;
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#card, button, .sorter, a, input, summary")) return;
    const source = event.target.closest(shown);
    if (source && getSelection().isCollapsed) keep(source, event.clientX, event.clientY);
    else if (!source && kept) close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close(true);
  });

  // Marks: one stop of the Tab key for each figure, arrow keys between its marks.
  for (const figure of all("figure")) {
    const marks = all(".mark", figure);
    const visible = () => marks.filter((mark) => !mark.closest(".off"));
    if (marks.length) marks[0].tabIndex = 0;
    figure.addEventListener("focusin", (event) => {
      const mark = event.target.closest(".mark");
      if (mark && !kept && mark.matches(":focus-visible")) show(mark, ...middle(mark));
    });
    figure.addEventListener("focusout", () => { if (!kept) card.hidden = true; });
    figure.addEventListener("keydown", (event) => {
      const mark = event.target.closest(".mark");
      if (!mark) return;
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const list = visible();
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        keep(mark, ...middle(mark));
        card.querySelector("button")?.focus();
      } else if (steps[event.key]) {
        event.preventDefault();
        const next = list[(list.indexOf(mark) + steps[event.key] + list.length) % list.length];
        mark.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
    });

    // Series: a button for each, which hides and shows all that is of it.
    const names = [...new Set(all("[data-series]", figure).map((of) => of.dataset.series))];
    if (names.length < 2) continue;
    const toggles = make("div", { className: "toggles" });
    toggles.setAttribute("role", "group");
    toggles.setAttribute("aria-label", "Series of " + figure.id);
    for (const name of names) {
      const of = all("[data-series]", figure).filter((g) => g.dataset.series === name);
      const button = make("button", { type: "button" });
      const shape = of.map((g) => g.querySelector(".mark > *:not(rect)")).find(Boolean);
      if (shape) {
        // From its attributes: asking for its box would lay the page out once a figure.
        const spots = shape.tagName === "circle"
          ? [-1, 1].map((way) => ["cx", "cy"].map((name) =>
              Number(shape.getAttribute(name)) + way * shape.getAttribute("r")))
          : shape.getAttribute("points").split(" ").map((spot) => spot.split(",").map(Number));
        const ends = [0, 1].map((axis) => spots.map((spot) => spot[axis]))
          .map((of) => [Math.min(...of), Math.max(...of)]);
        const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        icon.setAttribute("viewBox", [ends[0][0], ends[1][0], ends[0][1] - ends[0][0],
          ends[1][1] - ends[1][0]].join(" "));
        icon.setAttribute("aria-hidden", "true");
        icon.append(shape.cloneNode());
        button.append(icon);
      }
      button.append(name);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const isOn = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(isOn));
        of.forEach((g) => g.classList.toggle("off", !isOn));
        marks.forEach((mark) => { mark.tabIndex = -1; });
        const first = visible()[0];
        if (first) first.tabIndex = 0;
      });
      toggles.append(button);
    }
    figure.append(toggles);
  }

  // Tables: sort by a heading, filter by words, choose columns.
  const value = (cell) => {
    if (!cell || !cell.textContent) return null;
    const text = cell.dataset.v ?? cell.textContent;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const sort = (table, at, isUp) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [value(row.cells[at]), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return isUp ? compare(a, b) : compare(b, a);
    });
    body.append(...keyed.map(([, row]) => row));
    all("th", table).forEach((th, other) => th.setAttribute("aria-sort",
      other !== at ? "none" : isUp ? "ascending" : "descending"));
  };
  // One rule a column is quicker than a class at every cell.
  const widest = Math.max(0, ...all(".table thead tr").map((row) => row.cells.length));
  document.head.append(make("style", { textContent: Array.from({ length: widest }, (_, at) =>
    `table.no-${at + 1} tr > :nth-child(${at + 1}) { display: none; }`).join("\n") }));
  for (const holder of all(".table")) {
    const table = holder.querySelector("table");
    const heads = all("th", table);
    heads.forEach((th, at) => {
      // Not a button: on paper, headings that are repeated would lose its text.
      const button = make("span", { className: "sorter", tabIndex: 0 }, ...th.childNodes);
      button.setAttribute("role", "button");
      th.append(button);
      th.setAttribute("aria-sort", "none");
      const turn = () => sort(table, at, th.getAttribute("aria-sort") !== "ascending");
      button.addEventListener("click", turn);
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        turn();
      });
    });
    const tools = make("div", { className: "filter" });
    const count = table.tBodies[0].rows.length;
    if (count > 5) {
      const input = make("input", { type: "search", placeholder: "words that a row has" });
      const state = make("span", { textContent: count + " rows" });
      state.setAttribute("role", "status");
      input.addEventListener("input", () => {
        const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        let left = 0;
        for (const row of table.tBodies[0].rows) {
          const text = [...row.cells].map((cell) => cell.textContent).join("\t").toLowerCase();
          const fits = words.every((word) => text.includes(word));
          row.classList.toggle("hidden", !fits);
          left += fits;
        }
        state.textContent = left + " of " + count + " rows";
      });
      tools.append(make("label", {}, "Filter ", input), state);
    }
    if (heads.length > 6) {
      const list = make("div");
      heads.forEach((th, at) => {
        const box = make("input", { type: "checkbox", checked: !("spare" in th.dataset) });
        const apply = () => table.classList.toggle("no-" + (at + 1), !box.checked);
        box.addEventListener("change", apply);
        if (!box.checked) apply();
        list.append(make("label", {}, box, " " + th.textContent));
      });
      tools.append(make("details", {}, make("summary", { textContent: "Columns" }), list));
    }
    if (tools.childNodes.length) holder.prepend(tools);
  }
  root.dataset.ready = performance.now().toFixed(0);
})();
