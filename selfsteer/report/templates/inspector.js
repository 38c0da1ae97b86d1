// Filters and shows the rows of the page. Text of the run only ever becomes text nodes, never markup.
"use strict";
(() => {
  const MINUS = "\u2212";
  const SIGNS = { positive: "y\u207a", negative: "y\u207b", original: "y\u2092" };
  const PROMPTS = ["x", "x\u207a", "x\u207b"];
  const byId = (id) => document.getElementById(id);
  const rows = JSON.parse(byId("inspector-rows").textContent);
  const controls = [...document.querySelectorAll(".filters input, .filters select")];
  const [list, detail, search] = ["rows", "row", "find"].map(byId);
  const texts = rows.map((row) =>
    [row.id, ...row.query.map((turn) => turn.text), ...row.principles, ...row.responses.map((one) => one.parts.join("")), row.reason]
      .join("\n").toLowerCase());
  let options = [];
  let chosen = -1;

  const element = (tag, className, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);
    return made;
  };
  const ofRun = (tag, className, ...children) => {
    const made = element(tag, className, ...children);
    made.dir = "auto";
    return made;
  };
  const shownNumber = (value, digits) =>
    value === null ? "not measured" : value.toFixed(digits).replace("-", MINUS);
  const length = (row, role) => row.responses.find((one) => one.role === role)?.tokens ?? null;

  const bounds = (id) => ["from", "to"].map((end) => {
    const value = byId(`${id}-${end}`).value;
    return value === "" ? null : Number(value);
  });
  const within = (value, [from, to]) => {
    if (from === null && to === null) return true;
    return value !== null && (from === null || value >= from) && (to === null || value <= to);
  };

  function matching() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [outcome, reason, aspect, round, role] =
      ["outcome", "reason", "aspect", "round", "length-of"].map((id) => byId(id).value);
    const [lengths, margins] = ["length", "margin"].map(bounds);
    return rows.map((row, place) => place).filter((place) => {
      const row = rows[place];
      return words.every((word) => texts[place].includes(word))
        && (!outcome || row.kept === (outcome === "kept"))
        && (!reason || (!row.kept && row.outcome === reason))
        && (!aspect || row.aspects.includes(aspect))
        && (!round || String(row.round) === round)
        && within(length(row, role), lengths)
        && within(row.margin, margins);
    });
  }

  function refresh() {
    const before = options[chosen]?.dataset.place;
    const found = matching();
    options = found.map((place, number) => {
      const row = rows[place];
      const option = element("div", "",
        ofRun("span", "words", row.query.at(-1)?.text || "(empty)"),
        ofRun("span", "about", `${row.kept ? "kept" : `dropped: ${row.outcome}`} \u00b7 round ${row.round}`));
      option.id = `option-${place}`;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", "false");
      option.dataset.place = place;
      option.addEventListener("click", () => choose(number));
      return option;
    });
    list.replaceChildren(...options);
    byId("shown").textContent = `${found.length} of ${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
    chosen = -1;
    const same = options.findIndex((option) => option.dataset.place === before);
    if (options.length) choose(Math.max(same, 0));
    else {
      list.removeAttribute("aria-activedescendant");
      detail.replaceChildren(element("p", "missing", "No row matches."));
    }
  }

  function choose(number) {
    options[chosen]?.setAttribute("aria-selected", "false");
    chosen = number;
    const option = options[number];
    option.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", option.id);
    // Scrolls the list alone: scrollIntoView would move the page as well.
    if (option.offsetTop < list.scrollTop + list.offsetTop) list.scrollTop = option.offsetTop - list.offsetTop;
    const below = option.offsetTop + option.offsetHeight - list.offsetTop - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
    show(rows[Number(option.dataset.place)]);
  }

  function show(row) {
    const heading = (text) => element("h3", "", text);
    const turns = row.query.flatMap((turn) => {
      const text = ofRun("p", "text", turn.text || "(empty)");
      return row.query.length === 1 ? [text] : [ofRun("p", "turn", turn.role), text];
    });
    detail.replaceChildren(
      heading("Query"), ...turns,
      ...(row.kept ? [] : [heading("Dropped"), ofRun("p", "dropped", row.reason || "no reason recorded")]),
      heading("Principles"),
      element("div", "three", ...row.principles.map((text, number) =>
        element("div", `response ${["positive", "negative"][number]}`,
          element("h4", "", ["of y\u207a", "of y\u207b"][number]), ofRun("p", "text", text || "(none)")))),
      heading("Responses"), element("div", "three", ...row.responses.map(response)),
      ...(row.responses.some((one) => one.scores.some((value) => value !== null)) ? scores(row) : []),
      facts(row));
  }

  function response(one) {
    const ended = { stop: "", length: ", cut off at the limit" }[one.finish] ?? "";
    const about = element("p", "about", `${one.tokens} ${one.unit}${ended}`);
    if (one.named) about.append(" \u00b7 ", element("span", "named", "named in the reason"));
    const text = ofRun("p", "text", ...one.parts.map((part, number) => number % 2 ? element("mark", "", part) : part));
    if (!one.parts.join("").trim()) text.textContent = "(empty)";
    const thinking = element("details", "", element("summary", "", "Thinking"), ofRun("p", "text", one.thinking));
    return element("div", `response ${one.role}`, element("h4", "", SIGNS[one.role]), about, text,
      ...(one.thinking ? [thinking] : []));
  }

  function scores(row) {
    const scoped = (scope, text) => {
      const cell = element("th", "", text);
      cell.scope = scope;
      return cell;
    };
    const head = element("tr", "", scoped("col", "Response under"), ...PROMPTS.map((name) => scoped("col", name)));
    const body = row.responses.map((one) => element("tr", "", scoped("row", SIGNS[one.role]),
      ...one.scores.map((value) => element("td", "", shownNumber(value, 3)))));
    return [element("h3", "", "Mean log-probs, nats per token"),
      element("table", "scores", element("thead", "", head), element("tbody", "", ...body))];
  }

  function facts(row) {
    const known = { Id: row.id, Round: String(row.round), Aspects: row.aspects.join(", ") || "none",
      "Steering margin": shownNumber(row.margin, 3), ...(row.harm ? { "Harm of y\u207b": row.harm } : {}) };
    const listed = (pairs) => element("dl", "", ...pairs.map(([name, value]) =>
      element("div", "", ofRun("dt", "", name), ofRun("dd", "", value))));
    const source = Object.entries(row.source).filter(([, value]) => value);
    const from = element("details", "", element("summary", "", "Where the row comes from"), listed(source));
    return element("div", "", listed(Object.entries(known)), ...(source.length ? [from] : []));
  }

  const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  list.addEventListener("keydown", (event) => {
    if (event.key in STEPS && options.length) {
      event.preventDefault();
      choose(Math.min(Math.max(chosen + STEPS[event.key], 0), options.length - 1));
    } else if (event.key === "Enter") detail.focus();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && byId("inspector").contains(event.target)) list.focus();
  });
  controls.forEach((control) => control.addEventListener("input", refresh));
  byId("reset").addEventListener("click", () => {
    controls.forEach((control) => {
      if (control.tagName === "SELECT") control.selectedIndex = 0;
      else control.value = "";
    });
    refresh();
  });
  refresh();
})();
