"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const STATES = ["completed", "stopped", "failed", "running", "queued", "proposing", "withdrawn"];
  const SHAPES = { completed: "circle", stopped: "rect", failed: "triangle", running: "diamond", queued: "circle", proposing: "circle", withdrawn: "pin" };
  const GLYPHS = {
    completed: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10z", stopped: "M1.5 1.5h9v9h-9z", failed: "M6 1l5.5 10h-11z",
    running: "M6 0l6 6l-6 6l-6-6z", proposing: "M0.5 4.7h2.6v2.6h-2.6zM4.7 4.7h2.6v2.6h-2.6zM8.9 4.7h2.6v2.6h-2.6z",
    withdrawn: "M1.5 0l4.5 4.5l4.5-4.5l1.5 1.5l-4.5 4.5l4.5 4.5l-1.5 1.5l-4.5-4.5l-4.5 4.5l-1.5-1.5l4.5-4.5l-4.5-4.5z",
    queued: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM6 2.6a3.4 3.4 0 1 1 0 6.8a3.4 3.4 0 1 1 0-6.8z",
  };
  const GROUPS = ["capacity", "regularization", "optimization"];
  const RADIAL_FROM = 80; // leaves; more rows than this do not fit the tree's height

  const nodes = new Map(data.nodes.map((node) => [node.id, { ...node, children: [] }]));
  for (const node of nodes.values()) if (node.parent !== null) nodes.get(node.parent).children.push(node);
  const root = [...nodes.values()].find((node) => node.parent === null);
  const onBestPath = new Set(data.best_path);
  const best = nodes.get(data.best_path.at(-1));
  const scores = [...nodes.values()].map((node) => node.score).filter((score) => score !== null);
  const [lowest, highest] = [Math.min(...scores), Math.max(...scores)];
  let leaves = 0;
  if (root) placeRows(root);
  const radial = leaves >= RADIAL_FROM;
  const labelSpace = radial ? 48 : 24; // pixels between leaves that labels need
  const symbolSize = radial ? 7 : Math.min(14, Math.max(7, 360 / leaves));

  /** Give every node the row it is drawn in: leaves in order, a parent midway between its first and its last child. */
  function placeRows(node) {
    node.children.forEach(placeRows);
    node.row = node.children.length ? (node.children[0].row + node.children.at(-1).row) / 2 : leaves++;
  }

  // --- words and numbers ----------------------------------------------------------------------------------------------
  const byId = (id) => document.getElementById(id);

  /** Make an element. Text becomes text nodes, so that nothing in the data is ever read as HTML. */
  function el(tag, attributes = {}, ...content) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...content.flat().filter((part) => part !== null && part !== undefined && part !== false));
    return element;
  }

  function glyph(state) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", "0 0 12 12");
    svg.setAttribute("class", "glyph");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", GLYPHS[state]);
    path.setAttribute("fill-rule", "evenodd");
    svg.append(path);
    return svg;
  }

  const stateMark = (state) => el("span", { class: `state state-${state}` }, glyph(state), state);
  const link = (node, text = node.id) => el("button", { type: "button", class: "link", click: () => select(node.id) }, text);
  const none = (text) => el("p", { class: "none" }, text);

  function text(value) {
    if (value === null || value === undefined) return "\u2013";
    if (typeof value === "object") return JSON.stringify(value);
    if (typeof value !== "number") return String(value);
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(Number(value.toPrecision(4))).replace("-", "\u2212");
  }

  const score = (value) => (value === null || value === undefined ? "\u2013" : value.toFixed(3));
  const signed = (value, digits = 3) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);

  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "\u2013";
    if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
    return seconds < 6000 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function flops(amount) {
    return amount === null || amount === undefined ? "unknown" : amount.toExponential(2);
  }

  function gain(node) {
    const parent = nodes.get(node.parent);
    return parent && node.score !== null && parent.score !== null ? node.score - parent.score : null;
  }

  /** List the parameters that differ from the parent's: [parameter, before, after]. */
  function changes(node) {
    const parent = nodes.get(node.parent);
    if (!parent || node.state === "proposing" || node.state === "withdrawn") return [];
    const differs = (_, i) => JSON.stringify(node.config[i]) !== JSON.stringify(parent.config[i]);
    return data.parameters.map((parameter, i) => [parameter, parent.config[i], node.config[i]]).filter(([parameter], i) => differs(parameter, i));
  }

  const diagnosis = (node) => [node.proposal.diagnosis ?? []].flat().map(text);

  // --- what is shown: kept in the address, so that it survives a reload -------------------------------------------------
  const address = new URLSearchParams(location.hash.slice(1));
  const scrolled = history.state?.panel ?? 0;
  const view = {
    node: nodes.has(address.get("node")) ? address.get("node") : (best ?? root)?.id,
    hidden: new Set((address.get("hide") ?? "").split(",").filter((state) => STATES.includes(state))),
    theme: ["light", "dark"].includes(address.get("theme")) ? address.get("theme") : null,
    budget: ["flops", "gpu_seconds"].find((name) => name === address.get("budget")) ?? "stages",
    sort: address.get("sort") ?? "id",
    roam: (address.get("roam") ?? "").split(",").map(Number).filter(Number.isFinite),
    pinned: nodes.has(address.get("node")),
  };

  let pending = 0;

  /** Keep the place in the address; at once only when the page goes, as browsers refuse a flood of such changes. */
  function remember() {
    clearTimeout(pending);
    pending = setTimeout(keepPlace, 200);
  }

  function keepPlace() {
    const kept = new URLSearchParams();
    if (view.pinned) kept.set("node", view.node);
    if (view.hidden.size) kept.set("hide", [...view.hidden].join(","));
    if (view.theme) kept.set("theme", view.theme);
    if (view.budget !== "stages") kept.set("budget", view.budget);
    if (view.sort !== "id") kept.set("sort", view.sort);
    if (view.roam.length === 3) kept.set("roam", view.roam.map((number) => Number(number.toPrecision(4))).join(","));
    history.replaceState({ panel: byId("panel").scrollTop }, "", `#${kept}`);
  }

  // --- colours and charts -----------------------------------------------------------------------------------------------
  let colors = {};
  const charts = new Map(); // host element -> {chart, option}
  const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => charts.get(target)?.chart.resize()));

  function applyTheme() {
    const dark = view.theme ? view.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    byId("theme").textContent = dark ? "Light theme" : "Dark theme";
    const style = getComputedStyle(document.documentElement);
    const names = ["surface", "ink", "muted", "faint", "line", "accent", "path", "bad", "ramp-low", "ramp-mid", "ramp-high"];
    colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    for (const { chart, option } of charts.values()) chart.setOption(option(), { replaceMerge: ["series"] });
  }

  /** Draw a chart into a host that is on the page; `option` is asked again whenever the colours change. */
  function draw(host, option) {
    const known = charts.get(host);
    const chart = known?.chart ?? echarts.init(host, null, { renderer: "svg" });
    charts.set(host, { chart, option });
    resized.observe(host);
    chart.setOption(option(), { replaceMerge: ["series"] });
    return chart;
  }

  function forget(container) {
    for (const [host, { chart }] of charts) {
      if (!container.contains(host)) continue;
      resized.unobserve(host);
      chart.dispose();
      charts.delete(host);
    }
  }

  function mix(from, to, share) {
    const channel = (color, i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
    return `rgb(${[0, 1, 2].map((i) => Math.round(channel(from, i) * (1 - share) + channel(to, i) * share)).join(",")})`;
  }

  function scoreColor(value) {
    if (value === null) return colors.surface;
    const share = highest > lowest ? (value - lowest) / (highest - lowest) : 1;
    return share < 0.5 ? mix(colors["ramp-low"], colors["ramp-mid"], share * 2) : mix(colors["ramp-mid"], colors["ramp-high"], share * 2 - 1);
  }

  const tooltip = (lines) => el("div", { class: "tip" }, el("b", {}, lines[0]), lines.slice(1).map((line) => el("div", {}, line)));

  function base(tip) {
    const popup = {
      trigger: "item", confine: true, transitionDuration: 0, backgroundColor: colors.surface, borderColor: colors.faint,
      borderWidth: 1, padding: [6, 10], textStyle: { color: colors.ink, fontFamily: "inherit" }, ...tip,
    };
    return { animation: false, textStyle: { color: colors.muted, fontFamily: getComputedStyle(document.body).fontFamily }, tooltip: popup };
  }

  const axis = (more = {}) => ({
    type: "value", splitNumber: 3, axisLine: { lineStyle: { color: colors.line } }, axisTick: { show: false }, nameGap: 24,
    nameTextStyle: { color: colors.muted, fontSize: 11 }, splitLine: { lineStyle: { color: colors.line, opacity: 0.6 } },
    ...more, axisLabel: { color: colors.muted, fontSize: 11, hideOverlap: true, formatter: text, ...more.axisLabel },
  });

  /** Vertical bars of one standard error to either side of points [x, y, stderr]. */
  function errorBars(points, color) {
    const renderItem = (_, api) => {
      const [x, y, error] = [api.value(0), api.value(1), api.value(2)];
      const [left, top] = api.coord([x, y + error]);
      const bottom = api.coord([x, y - error])[1];
      const line = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: color, lineWidth: 1, opacity: 0.75 } });
      return { type: "group", children: [line(left, top, left, bottom), line(left - 3, top, left + 3, top), line(left - 3, bottom, left + 3, bottom)] };
    };
    const ends = (i) => [i(1) - i(2), i(1) + i(2)];
    const data = points.map(([x, y, error]) => [x, y, error ?? 0, ...ends((i) => [x, y, error ?? 0][i])]);
    return { type: "custom", renderItem, data, encode: { x: 0, y: [1, 3, 4] }, silent: true, z: 1 };
  }

  const line = (points, color, more = {}) => ({
    type: "line", data: points, color, symbol: "circle", symbolSize: 4, showSymbol: points.length < 40, lineStyle: { width: 1.6, color }, ...more,
  });

  // --- header -----------------------------------------------------------------------------------------------------------
  function tile(name, value, note, look = "") {
    return el("dl", { class: `tile ${look}` }, el("dt", {}, name), el("dd", {}, value), note ? el("dd", { class: "note" }, note) : null);
  }

  /** Base, practitioner, best constant and best strategy, with the compute and the device time behind each. */
  function testTile() {
    const names = { base: "base", practitioner: "practitioner", constant: "best constant", best: "best strategy" };
    const row = (label, cells, kind = "td") => el("tr", {}, el("th", { scope: "row" }, label), cells.map((cell, i) => el(kind, { class: i ? "stderr" : "" }, cell)));
    const failed = data.test.failed ?? {};
    const rows = Object.keys(names).filter((name) => data.test[name] || failed[name]).map((name) => {
      if (!data.test[name]) return row(names[name], ["failed", "", "", ""]);
      const { score: value, stderr, flops: spent, gpu_seconds: seconds } = data.test[name];
      const error = stderr === null || stderr === undefined ? "" : `\u00b1 ${stderr.toFixed(3)}`;
      return row(names[name], [score(value), error, spent === null || spent === undefined ? "?" : spent.toPrecision(3), duration(seconds)]);
    });
    const head = row("", ["test", "", "FLOPs", "GPU time"], "th");
    const { constant } = data.test;
    const note = [
      constant ? `best constant: best of ${constant.arms}: ${constant.about}` : null, data.course ? `${data.course}.` : null,
      ...Object.keys(names).filter((name) => failed[name]).map((name) => `${names[name]} failed: ${failed[name]}.`), data.confirmation ? null : "one seed; not confirmed",
    ].filter(Boolean).join(" ");
    const title = data.test.practitioner && (data.test.best.flops ?? null) !== null ? "Test score at equal compute" : "Test score";
    return tile(title, el("table", { class: "tests", id: "test-scores" }, el("thead", {}, head), el("tbody", {}, rows)), note || null, "broad");
  }

  /** Compare strategies with the practitioner's configuration over fresh seeds; the winner by validation comes first. */
  function confirmationTile() {
    const { winner, strategies, practitioner, base, seeds, stages } = data.confirmation;
    const names = [winner, ...Object.keys(strategies).filter((name) => name !== winner)];
    const p = (found) => (found ? `p = ${text(found.practitioner.p_welch && Number(found.practitioner.p_welch.toPrecision(2)))}` : "");
    const parts = [...names.map((name) => [name, strategies[name]]), ["practitioner", practitioner], ["base", base]];
    const rows = parts.map(([name, { mean, stderr, against }]) => {
      const error = stderr === null ? "" : `\u00b1 ${stderr.toFixed(3)}`;
      const cells = [el("td", {}, mean === null ? "failed" : score(mean)), el("td", { class: "stderr" }, error), el("td", { class: "stderr" }, p(against))];
      return el("tr", {}, el("th", { scope: "row" }, name.replace("-", " ")), cells);
    });
    const grown = [...nodes.values()].length - 1 - stages;
    const left = practitioner.incomplete ? `; its training failed on ${practitioner.incomplete} of ${seeds.length} seeds, left out` : "";
    const note = `p: Welch's test against practitioner${left}${grown > 0 ? `; before the last ${grown} stages` : ""}`;
    return tile(`Test score on ${seeds.length} fresh seeds`, el("table", { class: "tests", id: "confirmation" }, el("tbody", {}, rows)), note, "compared");
  }

  function renderHeader() {
    const { id, method, agent, state } = data.search;
    document.title = `${id} \u00b7 LLMZero search`;
    byId("search-id").textContent = id;
    const facts = [["method", method], ["agent", agent]].filter(([, value]) => value).map(([name, value]) => el("span", {}, `${name} ${value}`));
    byId("search-facts").append(el("span", { class: state === "running" ? "live" : "" }, state), ...facts);
    const counts = STATES.map((name) => [name, [...nodes.values()].filter((node) => node.parent !== null && node.state === name).length]);
    const gained = best && data.base_score !== null ? best.score - data.base_score : null;
    const relative = gained !== null && data.base_score > 0 ? `${signed((100 * gained) / data.base_score, 0)} %` : null;
    const { prefetched, prefetches_used: used, prefetches_wasted: wasted } = data.budget;
    const ahead = prefetched ? `; ${prefetched} proposals prefetched, ${used} used, ${wasted} wasted` : "";
    const calls = data.budget.llm_calls ? `${data.budget.llm_calls} LLM calls, $${data.budget.llm_dollars.toFixed(2)}${ahead}` : null;
    const idle = data.budget.idle_gpu_seconds ? `and ${duration(data.budget.idle_gpu_seconds)} held idle` : null;
    byId("summary").append(
      tile("Base score", score(data.base_score), `validation, ${data.validation_max_tokens === null ? "each stage within its own length limit" : `up to ${data.validation_max_tokens} tokens`}`),
      tile("Best score", score(best?.score), best ? `stage ${best.id}, depth ${best.depth}` : null, "strong"),
      tile("Improvement", gained === null ? "\u2013" : signed(gained), relative),
      tile("Stages", data.budget.stages, counts.filter(([, count]) => count).map(([name, count]) => `${count} ${name}`).join(", ")),
      tile("GPU time", duration(data.budget.gpu_seconds), [idle, calls].filter(Boolean).join(", ") || null),
      tile("Wall time", duration(data.budget.seconds), data.budget.setup_gpu_seconds ? `set-up and test: ${duration(data.budget.setup_gpu_seconds)} GPU` : null),
      ...(data.test ? [testTile()] : []),
      ...(data.confirmation ? [confirmationTile()] : []),
    );
  }

  function renderStates() {
    const chip = (state) => {
      const count = [...nodes.values()].filter((node) => node.state === state).length;
      const pressed = String(!view.hidden.has(state));
      const toggle = () => {
        view.hidden.has(state) ? view.hidden.delete(state) : view.hidden.add(state);
        showFilter();
        byId("states").querySelector(`[data-state="${state}"]`).focus();
      };
      const attributes = { type: "button", class: "chip", "data-state": state, "aria-pressed": pressed, click: toggle };
      return count ? el("button", attributes, stateMark(state), el("span", { class: "count" }, count)) : null;
    };
    byId("states").replaceChildren(...STATES.map(chip).filter(Boolean));
  }

  function showFilter() {
    remember();
    renderStates();
    renderTree();
    renderTable();
  }

  // --- tree -------------------------------------------------------------------------------------------------------------
  let treeChart = null;
  let roomForLabels = false;

  function treeLabel(node) {
    const shown = roomForLabels || node.id === view.node || (radial ? node === best : onBestPath.has(node.id));
    // Labels of inner nodes end just beyond the node, on the side its parent is not on: there the fewest edges pass.
    const below = node.row > (nodes.get(node.parent)?.row ?? node.row);
    const inner = { position: below ? ["140%", "165%"] : ["140%", "-65%"], align: "right", verticalAlign: "middle" };
    const spot = node.children.length ? inner : { position: "right", align: "left", distance: 6 };
    const around = node.children.length ? { rotate: 0, position: "top" } : {};
    const place = radial ? around : { ...spot, rotate: 0 };
    const weight = { fontWeight: node.id === view.node ? 700 : 400 };
    return { show: shown && !(view.hidden.has(node.state) && node.id !== view.node), ...place, ...weight };
  }

  function treeItem(node) {
    const selected = node.id === view.node;
    const path = onBestPath.has(node.id);
    const border = node.state === "failed" ? colors.bad : path ? colors.path : colors.muted;
    const opacity = view.hidden.has(node.state) ? 0.15 : 1;
    return {
      name: node.id,
      symbol: SHAPES[node.state],
      symbolSize: selected ? symbolSize + 7 : path ? symbolSize + 2 : symbolSize,
      itemStyle: {
        color: scoreColor(node.score), borderColor: selected ? colors.ink : border, borderWidth: selected ? 3 : path ? 2 : 1.2, opacity,
        borderType: ["queued", "proposing", "withdrawn"].includes(node.state) ? "dashed" : "solid",
      },
      lineStyle: { color: path ? colors.path : colors.faint, width: path ? 3 : radial ? 0.8 : 1.2, opacity: path ? 1 : (radial ? 0.45 : 0.65) * opacity },
      label: treeLabel(node),
      children: node.children.map(treeItem),
    };
  }

  function treeTip({ name }) {
    const node = nodes.get(name);
    if (!node) return "";
    const changed = changes(node).slice(0, 4).map(([parameter, before, after]) => `${parameter.name}: ${text(before)} \u2192 ${text(after)}`);
    return tooltip([`${node.id} \u00b7 ${node.state} \u00b7 score ${score(node.score)}`, diagnosis(node).join(", "), ...changed].filter(Boolean));
  }

  function treeOption() {
    const label = {
      fontSize: 11, color: colors.ink, backgroundColor: colors.surface, padding: [1, 3], borderRadius: 3,
      formatter: ({ name }) => `${name}  ${score(nodes.get(name)?.score)}`,
    };
    const around = radial ? { layout: "radial", top: 40, bottom: 40, left: 40, right: 40 } : { orient: "LR", top: 26, bottom: 26, left: 84, right: 100 };
    const series = {
      type: "tree", id: "tree", data: [treeItem(root)], roam: true, scaleLimit: { min: 0.3, max: 40 }, nodeScaleRatio: 0.25,
      expandAndCollapse: false, emphasis: { disabled: true }, edgeShape: "curve", label, ...around,
    };
    return { ...base({ formatter: treeTip }), series: [series] };
  }

  function renderTree() {
    if (treeChart) treeChart.setOption(treeOption());
  }

  /** Where a node is drawn, in pixels of the tree. The library has no public call for it; its version is fixed in this page. */
  function pixelOf(id) {
    const drawn = treeChart.getModel().getSeriesByIndex(0).getData();
    return drawn.getItemGraphicEl(drawn.indexOfName(id)).transformCoordToGlobal(0, 0);
  }

  function zoomTree(factor) {
    const [x, y] = [treeChart.getWidth() / 2, treeChart.getHeight() / 2];
    if (factor === "fit") treeChart.setOption({ series: [{ id: "tree", zoom: 1, center: null }] });
    else treeChart.dispatchAction({ type: "treeRoam", seriesId: "tree", zoom: factor, originX: x, originY: y });
    roamed();
  }

  function roamed() {
    const { zoom, center } = treeChart.getOption().series[0];
    view.roam = center ? [zoom, ...center] : [];
    const height = treeChart.getHeight();
    const space = ((zoom ?? 1) * (radial ? Math.PI * (Math.min(height, treeChart.getWidth()) - 80) : height - 48)) / leaves;
    const room = space >= labelSpace;
    if (room !== roomForLabels) {
      roomForLabels = room;
      renderTree();
    }
    remember();
  }

  /** Bring a node into sight where it was panned or zoomed out of it. */
  function reveal(id) {
    const [x, y] = pixelOf(id);
    const [width, height] = [treeChart.getWidth(), treeChart.getHeight()];
    if (x > 20 && y > 20 && x < width - 20 && y < height - 20) return;
    treeChart.dispatchAction({ type: "treeRoam", seriesId: "tree", dx: width / 2 - x, dy: height / 2 - y });
    roamed();
  }

  const preorder = (node) => [node, ...node.children.flatMap(preorder)];

  /** The node an arrow key leads to; up and down pass over to cousins of the same depth. */
  function neighbour(key, node) {
    const row = preorder(root).filter((other) => other.depth === node.depth);
    const place = row.indexOf(node);
    const continued = node.children.find((child) => onBestPath.has(child.id)) ?? node.children[0];
    return { ArrowLeft: nodes.get(node.parent), ArrowRight: continued, ArrowUp: row[place - 1], ArrowDown: row[place + 1], Home: root, End: best }[key];
  }

  function navigate(event) {
    if (!/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) return;
    event.preventDefault();
    const next = neighbour(event.key, nodes.get(view.node));
    if (next) select(next.id);
  }

  function select(id) {
    view.node = id;
    view.pinned = true;
    remember();
    renderTree();
    reveal(id);
    renderPanel();
    markRow();
    const node = nodes.get(id);
    byId("announcer").textContent = `Stage ${id}, ${node.state}, score ${score(node.score)}, depth ${node.depth}`;
  }

  // --- panel ------------------------------------------------------------------------------------------------------------
  const section = (title, ...content) => [el("h3", {}, title), ...content];
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

  function panelHead(node) {
    const parent = nodes.get(node.parent);
    const separate = (links) => links.flatMap((item, i) => (i ? [", ", item] : [item]));
    const from = parent ? ["branches from ", link(parent), node.resume_from ? ` at ${node.resume_from}` : ""] : ["the base model"];
    const children = node.children.length ? [" \u00b7 continued by ", ...separate(node.children.slice(0, 12).map((child) => link(child)))] : [];
    const more = node.children.length > 12 ? ` and ${node.children.length - 12} more` : "";
    const tag = node === best ? "best of the search" : onBestPath.has(node.id) ? "on the best path" : null;
    return [
      el("div", { class: "panel-head" }, el("h2", {}, parent ? `Stage ${node.id}` : `Stage ${node.id}, the root`), stateMark(node.state), tag ? el("span", { class: "tag" }, tag) : null),
      el("p", { class: "relatives" }, ...from, ...children, more),
    ];
  }

  function panelFacts(node) {
    const gained = gain(node);
    const { tokens, dollars } = node.proposal;
    return el(
      "dl", { class: "figures" },
      fact("Score", score(node.score)), fact("Gain on parent", gained === null ? "\u2013" : signed(gained)), node.steps === null ? fact("FLOPs planned", flops(node.planned_flops)) : fact("Steps planned", node.steps),
      fact("GPU time", duration(node.gpu_seconds)), fact("FLOPs", flops(node.flops)), fact("Wall time", duration(node.seconds)), fact("Depth", node.depth),
      tokens ? fact("Proposal", `${tokens} tokens${dollars ? `, $${dollars.toFixed(3)}` : ""}`) : null,
      node.deaths ? fact("Died and retried", `${node.deaths} \u00d7`) : null,
    );
  }

  /** What the agent expected of a stage beside what came. */
  function panelExpected(node) {
    const { score: expected, low, high, probability, probability_best: best, incumbent, effect } = node.proposal.expected;
    const parent = nodes.get(node.parent);
    const improved = gain(node) === null ? null : gain(node) > 0 ? "it did" : "it did not";
    const interval = low == null || high == null ? "" : ` (${score(low)} to ${score(high)})`;
    const passed = node.score === null || incumbent == null ? "" : node.score > incumbent ? ", it did" : ", it did not";
    return [
      expected === null ? null : fact("expected score", `${score(expected)}${interval}, came ${score(node.score)}`),
      probability === null ? null : fact(`chance to pass ${parent?.id}`, `${Math.round(100 * probability)} %${improved ? `, ${improved}` : ""}`),
      best == null ? null : fact("chance to pass the best of that time", `${Math.round(100 * best)} %${passed}`),
      effect ? fact("expected effect", effect) : null,
    ].filter(Boolean);
  }

  function panelProposal(node) {
    const { agent, rationale, observations = [], reasons = {}, expected, notes = [] } = node.proposal;
    const found = diagnosis(node);
    const why = Object.entries(reasons).filter(([, reason]) => reason);
    return [
      notes.length ? el("div", { class: "notice", id: "notes" }, notes.map((note) => el("div", {}, note))) : null,
      observations.length ? el("ul", { class: "observations" }, observations.map((seen) => el("li", {}, seen))) : null,
      found.length ? el("ul", { class: "diagnosis", "aria-label": `Diagnosis of ${node.parent}` }, found.map((name) => el("li", {}, name.replaceAll("_", " ")))) : null,
      rationale ? el("p", { class: "prose", id: "rationale" }, text(rationale)) : none("No rationale was given."),
      why.length ? el("dl", { class: "words", id: "reasons" }, why.map(([name, reason]) => fact(name, reason))) : null,
      expected ? el("dl", { class: "words", id: "expected" }, panelExpected(node)) : null,
      agent ? el("p", { class: "byline" }, `proposed by ${text(agent)} from the dynamics of stage ${node.parent}`) : null,
    ];
  }

  function panelNotices(node) {
    const details = Object.entries(node.stop?.details ?? {}).map(([name, value]) => `${name} ${text(value)}`).join(", ");
    const audited = node.stop?.event === "audited" ? ", not carried out: an audit" : "";
    const stop = node.stop ? section(`Early stop${audited}`, el("div", { class: "notice" }, text(node.stop.reason), details ? el("p", { class: "byline" }, details) : null)) : [];
    const error = node.error ? section("Error", el("div", { class: "notice error" }, el("pre", {}, node.error))) : [];
    const withdrawn = node.withdrawn ? section("Withdrawn: there is no such stage", el("div", { class: "notice" }, node.withdrawn)) : [];
    const closed = node.closed ? section("Closed: it gets no more children", el("div", { class: "notice" }, node.closed)) : [];
    return [...error, ...stop, ...withdrawn, ...closed];
  }

  function configTable(node) {
    const changed = new Set(changes(node).map(([parameter]) => parameter.name));
    const parent = nodes.get(node.parent);
    const head = el("tr", {}, el("th", { scope: "col" }, "parameter"), el("th", { scope: "col" }, "value"), el("th", { scope: "col" }, parent ? `in ${parent.id}` : ""));
    const row = (parameter, i) => el(
      "tr", { class: changed.has(parameter.name) ? "changed" : null },
      el("th", { scope: "row", title: `${parameter.description} Allowed: ${parameter.allowed}.` }, parameter.name),
      el("td", {}, text(node.config[i]), parameter.unit ? ` ${parameter.unit}` : ""), el("td", { class: "before" }, parent ? text(parent.config[i]) : ""),
    );
    const rows = GROUPS.flatMap((group) => {
      const members = data.parameters.map((parameter, i) => [parameter, i]).filter(([parameter]) => parameter.group === group);
      return members.length ? [el("tr", { class: "group" }, el("th", { colspan: 3, scope: "colgroup" }, group)), ...members.map(([parameter, i]) => row(parameter, i))] : [];
    });
    return el("table", { class: "config" }, el("colgroup", {}, el("col", { class: "name" })), el("thead", {}, head), el("tbody", {}, rows));
  }

  /** A figure of the panel and what draws it once it is on the page. */
  function figure(title, note, summary, option, wide = false) {
    const host = el("div", { class: "chart", role: "img", "aria-label": `${title}: ${summary}` });
    const caption = el("figcaption", {}, el("b", {}, title), note ? ` ${note}` : "");
    return { element: el("figure", { class: wide ? "wide" : null }, caption, host), host, option };
  }

  const range = (values) => `from ${text(values[0])} to ${text(values.at(-1))}, lowest ${text(Math.min(...values))}, highest ${text(Math.max(...values))}`;
  const small = { left: 8, right: 12, top: 10, bottom: 4, outerBoundsMode: "same", outerBoundsContain: "axisLabel" };
  const atStep = ({ value }) => tooltip([`step ${value[0]}`, text(value[1]) + (value[2] ? ` \u00b1 ${text(value[2])}` : "")]);

  function validationFigure(node) {
    const points = node.validation.map(([step, , value, stderr]) => [step, value, stderr]);
    const start = nodes.get(node.parent)?.score ?? null;
    const option = () => {
      const reference = { symbol: "none", silent: true, label: { show: false }, lineStyle: { color: colors.path, type: "dashed" }, data: [{ yAxis: start }] };
      const main = line(points, colors.accent, start === null ? {} : { markLine: reference });
      // An invisible line over the reference makes the axis reach it.
      const reach = line(start === null ? [] : [[points[0][0], start]], "transparent", { silent: true, symbol: "none" });
      return { ...base({ formatter: atStep }), grid: small, xAxis: axis({ splitLine: { show: false }, min: 0 }), yAxis: axis({ scale: true }), series: [errorBars(points, colors.accent), main, reach] };
    };
    return figure("Validation score", `\u00b1 standard error${start === null ? "" : ", dashed: the parent's best"}`, range(points.map((point) => point[1])), option, true);
  }

  function curveFigure(node, name) {
    const points = node.curves.step.map((step, i) => [step, node.curves[name][i]]);
    const values = points.map((point) => point[1]).filter((value) => value !== null);
    const scale = { scale: name !== "truncated_fraction", min: name === "truncated_fraction" ? 0 : null };
    const option = () => ({
      ...base({ formatter: ([point]) => atStep(point), trigger: "axis", axisPointer: { lineStyle: { color: colors.faint } } }),
      grid: small, xAxis: axis({ splitLine: { show: false }, min: 0 }), yAxis: axis(scale), series: [line(points, colors.accent, { showSymbol: points.length === 1 })],
    });
    return figure(data.curves[name], "", range(values), option);
  }

  function panelCurves(node) {
    const present = Object.keys(data.curves).filter((name) => node.curves[name]);
    const figures = [...(node.validation.length ? [validationFigure(node)] : []), ...present.map((name) => curveFigure(node, name))];
    const thinned = node.curves.rows > node.curves.step.length ? el("p", { class: "hint" }, `${node.curves.step.length} of ${node.curves.rows} steps are drawn`) : null;
    const content = figures.length ? el("div", { class: "curves" }, figures.map(({ element }) => element)) : none("No validation and no metrics yet.");
    return { figures, content: section("Training dynamics over steps", content, thinned) };
  }

  function panelRollouts(node) {
    const rollout = ({ step, prompt, completion, reward }) => {
      const summary = el("summary", {}, el("span", { class: "reward" }, `reward ${text(reward)}`), el("span", { class: "first-line" }, text(completion)));
      return el("details", {}, summary, el("h4", {}, "Prompt"), el("pre", {}, text(prompt)), el("h4", {}, `Completion at step ${text(step)}`), el("pre", {}, text(completion)));
    };
    return section("Sample rollouts", ...(node.rollouts.length ? node.rollouts.map(rollout) : [none("None were sampled.")]));
  }

  function renderPanel() {
    const panel = byId("panel");
    forget(panel);
    const node = nodes.get(view.node);
    if (!node) {
      panel.replaceChildren(none("No stage has been created yet."));
      return;
    }
    const curves = panelCurves(node);
    const asked = node.state === "proposing"; // nothing is known of it yet
    const never = asked || node.state === "withdrawn";
    const proposal = node.parent === null ? [] : section("Proposal", ...(asked ? [none(`The agent is asked what to change in ${node.parent}.`)] : panelProposal(node)));
    const parts = [
      ...panelHead(node), panelFacts(node), ...panelNotices(node), ...proposal,
      ...(never ? [] : [...section(node.parent === null ? "Configuration" : "Configuration and changes", configTable(node)), ...curves.content, ...panelRollouts(node)]),
    ];
    panel.replaceChildren(...parts.filter(Boolean));
    panel.scrollTop = 0;
    for (const { host, option } of curves.figures) draw(host, option);
  }

  // --- the search as a whole --------------------------------------------------------------------------------------------
  const wide = { left: 8, right: 20, top: 26, bottom: 22, outerBoundsMode: "same", outerBoundsContain: "axisLabel" };

  /** Split the best path's validation into what the next stage continued from (`kept`) and what it did not (`left`). */
  function pathCurve() {
    const stages = data.best_path.map((id) => nodes.get(id)).filter((node) => node.validation.length);
    const begins = stages.map(({ validation: [[step, global]] }) => global - step);
    const points = stages.map((node) => node.validation.map(([, global, value, stderr]) => [global, value, stderr, node.id]));
    const kept = points.flatMap((own, i) => own.filter(([global]) => global <= (begins[i + 1] ?? Infinity)));
    const left = points.slice(0, -1).map((own, i) => own.filter(([global]) => global >= begins[i + 1])).filter((own) => own.length > 1);
    return { stages, begins, kept, left };
  }

  function renderPathScore() {
    const host = byId("path-score");
    const { stages, begins, kept, left } = pathCurve();
    if (!kept.length) return host.replaceWith(none("No validation yet."));
    host.setAttribute("aria-label", `Validation score along the best path ${data.best_path.join(", ")}: ${range(kept.map((point) => point[1]))}`);
    const tip = ({ value: [global, value, stderr, id] }) => tooltip([`stage ${id}, global step ${global}`, `${score(value)} \u00b1 ${text(stderr)}`]);
    const trained = stages.map((node, i) => [node, begins[i]]).filter(([node]) => node.parent !== null);
    const starts = () => ({
      symbol: "none", silent: true, lineStyle: { color: colors.faint, type: "dotted", width: 1 },
      label: { color: colors.muted, fontSize: 11, formatter: ({ name }) => name, align: "left", distance: 4 },
      data: trained.map(([node, begin]) => ({ name: node.id, xAxis: begin })),
    });
    draw(host, () => ({
      ...base({ formatter: tip }), grid: wide,
      xAxis: axis({ min: 0, splitLine: { show: false }, name: "global step", nameLocation: "middle", splitNumber: 6 }), yAxis: axis({ scale: true, splitNumber: 4 }),
      series: [
        ...left.map((points) => line(points, colors.faint, { lineStyle: { width: 1.2, type: "dashed", color: colors.faint } })),
        errorBars(kept, colors.path), line(kept, colors.path, { lineStyle: { width: 2, color: colors.path }, markLine: starts(), showSymbol: true, symbolSize: 5 }),
      ],
    }));
  }

  function renderBestSoFar() {
    const host = byId("best-so-far");
    for (const button of document.querySelectorAll("[data-budget]")) button.setAttribute("aria-pressed", String(button.dataset.budget === view.budget));
    if (!data.trajectory.length) return host.replaceChildren(none("No stage has finished yet."));
    const spent = data.trajectory.map((point) => [point[view.budget] ?? null, nodes.get(point.id), point.best]);
    if (spent.some(([x]) => x === null)) return host.replaceChildren(none("What stages have cost in compute is unknown: an earlier version did not count it."));
    const steps = [[0, data.base_score], ...spent.map(([x, , value]) => [x, value])].filter(([, value]) => value !== null);
    host.setAttribute("aria-label", `Best validation score over the budget: ${range(steps.map((point) => point[1]))}`);
    const byState = () => spent.filter(([, node]) => node.score !== null).map(([x, node]) => ({
      value: [x, node.score], name: node.id, symbol: SHAPES[node.state], itemStyle: { color: scoreColor(node.score), borderColor: colors.muted, borderWidth: 1 },
    }));
    const tip = ({ name, value, seriesType }) => seriesType === "scatter" ? treeTip({ name }) : tooltip([`best ${score(value[1])}`, `after ${after[view.budget](value[0])}`]);
    const axes = {
      stages: { minInterval: 1, name: "finished stages" },
      flops: { axisLabel: { formatter: (amount) => amount.toExponential(1) }, name: "FLOPs" },
      gpu_seconds: { axisLabel: { formatter: duration }, name: "GPU time" },
    };
    const after = { stages: (x) => `${x} stages`, flops: (x) => `${x.toExponential(2)} FLOPs`, gpu_seconds: duration };
    const chart = draw(host, () => ({
      ...base({ formatter: tip }), grid: wide,
      xAxis: axis({ min: 0, splitLine: { show: false }, nameLocation: "middle", splitNumber: 6, ...axes[view.budget] }), yAxis: axis({ scale: true, splitNumber: 4 }),
      series: [
        line(steps, colors.path, { step: "end", showSymbol: false, lineStyle: { width: 2, color: colors.path } }),
        { type: "scatter", data: byState(), symbolSize: nodes.size > 80 ? 6 : 10, cursor: "pointer" },
      ],
    }));
    chart.off("click");
    chart.on("click", ({ name }) => nodes.has(name) && select(name));
  }

  function parameterFigure(parameter, stages) {
    const values = stages.map((node) => text(node.config[data.parameters.indexOf(parameter)]));
    const positions = parameter.path.slice(1);
    const ticks = new Map(parameter.ticks.map(([position, value]) => [position, text(value)]));
    const marks = [...ticks.keys()];
    const option = () => ({
      ...base({ formatter: ({ dataIndex }) => tooltip([`stage ${stages[dataIndex].id}`, values[dataIndex]]) }),
      grid: { ...small, right: 24 },
      xAxis: axis({ type: "category", data: stages.map((node) => node.id), boundaryGap: true, axisLabel: { formatter: (id) => id } }),
      yAxis: axis({ min: -0.2, max: 1.2, axisTick: { show: false, customValues: marks }, splitLine: { show: false }, axisLabel: { customValues: marks, formatter: (mark) => ticks.get(mark) ?? "", width: 64, overflow: "truncate" } }),
      series: [line(positions.map((value, i) => ({ value, label: { position: value < positions[i - 1] ? "bottom" : "top" } })), colors.accent, {
        symbolSize: 6, showSymbol: true, label: {
          show: stages.length <= 8, distance: 4, color: colors.ink, fontSize: 11, width: 80, overflow: "truncate",
          formatter: ({ dataIndex: i }) => (i && values[i] === values[i - 1] ? "" : values[i]),
        },
      })],
    });
    const host = el("div", { class: "chart", role: "img", "aria-label": `${parameter.name} over the stages of the best path: ${values.join(", ")}` });
    return { element: el("figure", {}, el("figcaption", {}, parameter.name), host), host, option };
  }

  function renderTrajectories() {
    const stages = data.best_path.slice(1).map((id) => nodes.get(id));
    if (!stages.length) return byId("trajectories").append(none("The best path has no trained stage yet."));
    for (const group of GROUPS) {
      const members = data.parameters.filter((parameter) => parameter.group === group);
      const moves = (parameter) => new Set(parameter.path.slice(1)).size > 1;
      const figures = members.filter(moves).map((parameter) => parameterFigure(parameter, stages));
      const constant = members.filter((parameter) => !moves(parameter)).map((parameter) => `${parameter.name} ${text(stages[0].config[data.parameters.indexOf(parameter)])}`);
      if (!members.length) continue;
      byId("trajectories").append(el(
        "div", { class: "group-row" }, el("h3", {}, group), el("div", { class: "multiples" }, figures.map(({ element }) => element)),
        constant.length ? el("p", { class: "constant" }, `held constant: ${constant.join(" \u00b7 ")}`) : null,
      ));
      for (const { host, option } of figures) draw(host, option);
    }
  }

  // --- table ------------------------------------------------------------------------------------------------------------
  const changeList = (node) => changes(node).map(([parameter, before, after]) => `${parameter.name} ${text(before)} \u2192 ${text(after)}`).join(", ");
  const COLUMNS = [
    { key: "id", title: "Stage", value: (node) => node.id, cell: (node) => link(node) },
    { key: "parent", title: "Parent", value: (node) => node.parent, cell: (node) => node.parent ?? "\u2013" },
    { key: "depth", title: "Depth", value: (node) => node.depth, cell: (node) => node.depth, style: "number" },
    { key: "state", title: "State", value: (node) => STATES.indexOf(node.state), cell: (node) => stateMark(node.state) },
    { key: "score", title: "Score", value: (node) => node.score, cell: (node) => score(node.score), style: "number" },
    { key: "gain", title: "Gain", value: gain, cell: (node) => (gain(node) === null ? "\u2013" : signed(gain(node))), style: "number" },
    { key: "gpu", title: "GPU time", value: (node) => node.gpu_seconds, cell: (node) => duration(node.gpu_seconds), style: "number" },
    { key: "diagnosis", title: "Diagnosis of the parent", value: (node) => diagnosis(node).join(), cell: (node) => diagnosis(node).join(", ").replaceAll("_", " "), style: "words" },
    { key: "changes", title: "Changes to the parent", value: (node) => changes(node).length, cell: changeList, style: "words" },
  ];

  function sorted(rows) {
    const descending = view.sort.startsWith("-");
    const column = COLUMNS.find(({ key }) => key === view.sort.replace("-", "")) ?? COLUMNS[0];
    const compare = (a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last in either order
      return (x < y ? -1 : x > y ? 1 : 0) * (descending ? -1 : 1);
    };
    return rows.sort(compare);
  }

  function renderTable() {
    const key = view.sort.replace("-", "");
    const heading = (column) => {
      const order = column.key !== key ? null : view.sort.startsWith("-") ? "descending" : "ascending";
      const sort = () => {
        // Numbers are asked for largest first.
        const first = column.style === "number" ? `-${column.key}` : column.key;
        view.sort = column.key !== key ? first : view.sort === column.key ? `-${column.key}` : column.key;
        remember();
        renderTable();
        byId("stages").querySelector(`[data-sort="${column.key}"]`).focus();
      };
      return el("th", { scope: "col", class: column.style, "aria-sort": order }, el("button", { type: "button", "data-sort": column.key, click: sort }, column.title));
    };
    const shown = sorted([...nodes.values()].filter((node) => !view.hidden.has(node.state)));
    const row = (node) => {
      const pick = (event) => event.target.closest("button") || select(node.id);
      const cells = COLUMNS.map((column) => el("td", { class: column.style }, column.cell(node)));
      return el("tr", { "data-node": node.id, class: onBestPath.has(node.id) ? "on-path" : null, click: pick }, cells);
    };
    byId("stages").replaceChildren(el("thead", {}, el("tr", {}, COLUMNS.map(heading))), el("tbody", {}, shown.map(row)));
    byId("table-count").textContent = shown.length === nodes.size ? `${nodes.size} with the root` : `${shown.length} of ${nodes.size} shown`;
    markRow();
  }

  function markRow() {
    for (const row of byId("stages").tBodies[0].rows) row.classList.toggle("selected", row.dataset.node === view.node);
  }

  function startTree() {
    treeChart = draw(byId("tree"), treeOption);
    const [zoom, ...center] = view.roam;
    if (center.length === 2) treeChart.setOption({ series: [{ id: "tree", zoom, center }] });
    treeChart.on("click", ({ name }) => nodes.has(name) && select(name));
    treeChart.on("treeroam", roamed);
    byId("tree").addEventListener("keydown", navigate);
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => zoomTree(button.dataset.zoom === "fit" ? "fit" : Number(button.dataset.zoom)));
    }
    roamed();
  }

  /** Reload a live page now and then, but not under the reader's hands. */
  function keepFresh() {
    const seconds = Number(document.documentElement.dataset.refresh);
    let touched = -Infinity;
    for (const name of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(name, () => (touched = performance.now()), { passive: true });
    const reload = () => performance.now() - touched > 1000 * Math.min(2, seconds) && location.reload();
    if (seconds) setInterval(reload, 1000 * seconds);
  }

  // --- start ------------------------------------------------------------------------------------------------------------
  function start() {
    applyTheme();
    renderHeader();
    renderStates();
    byId("score-low").textContent = scores.length ? score(lowest) : "";
    byId("score-high").textContent = scores.length ? score(highest) : "";
    if (root) startTree();
    renderPanel();
    byId("panel").scrollTop = scrolled;
    byId("panel").addEventListener("scroll", remember);
    addEventListener("pagehide", keepPlace);
    keepFresh();
    renderPathScore();
    renderBestSoFar();
    renderTrajectories();
    renderTable();
    byId("theme").addEventListener("click", () => {
      view.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      remember();
      applyTheme();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
    for (const button of document.querySelectorAll("[data-budget]")) {
      button.addEventListener("click", () => {
        view.budget = button.dataset.budget;
        remember();
        renderBestSoFar();
      });
    }
  }

  start();
})();
