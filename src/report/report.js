// Draws the charts of a report. The data stand in the page as JSON; nothing is loaded.
"use strict";
(() => {
  const { networks, charts } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;

  // --- Colours: those of report.css, as the browser resolves them in the theme of the moment. ---
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const faint = (rgb, alpha) => rgb.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => {
    const [r, g, b] = parts.split(/[ ,/]+/);
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  });
  const colourOf = (series) =>
    colour(series.network == null ? "quiet" : `network-${networks[series.network].colour}`);
  const shapeOf = (series) =>
    series.shape ?? (series.network == null ? "circle" : networks[series.network].shape);

  // --- Numbers as text. ---
  const number = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e9 || size < 1e-4)) return value.toExponential(2);
    const digits = size >= 100 ? 1 : size >= 1 ? 2 : 4;
    return value.toLocaleString("en", { maximumFractionDigits: digits });
  };
  const labelled = (axis, value) =>
    axis.ticks?.find((tick) => tick.value === value)?.label ?? number(value);

  // --- Smoothing: an exponential moving average, corrected for its start. ---
  const SMOOTHING = 0.9;
  const smoothed = (points) => {
    let sum = 0, weight = 0;
    return points.map(([x, y]) => {
      if (Number.isFinite(y)) {
        sum = SMOOTHING * sum + (1 - SMOOTHING) * y;
        weight = SMOOTHING * weight + (1 - SMOOTHING);
      }
      return { x, y: weight > 0 ? sum / weight : NaN };
    });
  };

  // --- Settings of the library. ---
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;

  /** A line at a value of an axis that means something, such as a ratio of 1. */
  const marks = {
    id: "marks",
    afterDatasetsDraw(chart) {
      for (const scale of Object.values(chart.scales)) {
        const at = scale.options.mark;
        if (at == null || at < scale.min || at > scale.max) continue;
        const place = scale.getPixelForValue(at), { ctx, chartArea: area } = chart;
        ctx.save();
        ctx.strokeStyle = colour("ink");
        ctx.setLineDash([4, 4]);
        ctx.beginPath();
        if (scale.isHorizontal()) { ctx.moveTo(place, area.top); ctx.lineTo(place, area.bottom); }
        else { ctx.moveTo(area.left, place); ctx.lineTo(area.right, place); }
        ctx.stroke();
        ctx.restore();
      }
    },
  };

  /** Options of one axis. */
  const scale = (axis, type) => {
    const options = {
      type,
      title: { display: axis.label !== "", text: axis.label, color: colour("quiet") },
      grid: { color: colour("rule"), tickColor: "transparent" },
      border: { display: false },
      ticks: { color: colour("quiet"), maxRotation: 0, autoSkipPadding: 14 },
      min: axis.min,
      max: axis.max,
      mark: axis.mark,
    };
    if (axis.min !== undefined && axis.min === axis.max) {
      [options.min, options.max] = [axis.min - 1, axis.max + 1];
    }
    if (axis.log && axis.room) [options.min, options.max] = axis.room;
    if (axis.ticks) {
      // From the right, those whose text has room beside the last one.
      options.afterBuildTicks = (scale) => {
        const pixels = (scale.chart.width - 70) / (scale.max - scale.min || 1);
        let free = Infinity;
        scale.ticks = axis.ticks.toReversed().filter(({ value, label }) => {
          const half = 4 + 3.5 * label.length, at = value * pixels, fits = at + half <= free;
          if (fits) free = at - half;
          return fits;
        }).toReversed().map(({ value, label }) => ({ value, label }));
      };
      options.ticks.autoSkip = false;
      options.ticks.callback = (value) => labelled(axis, value);
    } else if (type === "logarithmic") {
      // 1, 2 and 5 times a power of ten have room.
      options.ticks.callback = (value) =>
        [1, 2, 5].includes(Number(Number(value.toExponential(6).split("e")[0]).toFixed(4))) ? number(value) : null;
    } else if (type === "linear") {
      options.ticks.callback = (value) => number(value);
    }
    return options;
  };

  const lineSets = (chart, series, smooth) => {
    const base = colourOf(series), points = series.points;
    const radius = chart.kind === "scatter" ? 7 : points.length <= 60 ? 4 : points.length <= 200 ? 1.5 : 0;
    const set = (data, more) => ({
      label: series.name, data, series, borderColor: base, backgroundColor: base, pointStyle: shapeOf(series),
      pointBorderWidth: 2, pointRadius: radius, pointHoverRadius: Math.max(5, radius + 1), pointHitRadius: 8,
      borderWidth: 2, tension: 0, clip: 10, showLine: chart.kind === "line", ...more,
    });
    const raw = points.map(([x, y]) => ({ x, y }));
    if (!smooth) return [set(raw, {})];
    const behind = { borderColor: faint(base, 0.25), borderWidth: 1, pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0, behind: true };
    return [set(smoothed(points), { pointRadius: 0 }), set(raw, behind)];
  };

  const barSet = (series) => {
    const base = colourOf(series);
    return { label: series.name, data: series.values, series, backgroundColor: base, borderRadius: 2, maxBarThickness: 40, categoryPercentage: 0.7, barPercentage: 0.92 };
  };

  /** The library's description of a view. */
  const described = (chart, view, smooth, hidden) => {
    const bars = chart.kind === "columns" || chart.kind === "bars";
    const lying = chart.kind === "bars";
    const sets = view.series.flatMap((series) => bars ? [barSet(series)] : lineSets(chart, series, smooth));
    for (const set of sets) set.hidden = hidden.has(set.series.network ?? set.label);
    if (view.x.log) {
      const values = view.series.flatMap((series) => series.points.map(([x]) => x));
      view.x.room = [Math.min(...values) / 1.25, Math.max(...values) * 1.25];
    }
    const [along, across] = lying ? ["y", "x"] : ["x", "y"];
    const scales = {
      [along]: scale(view.x, bars ? "category" : view.x.log ? "logarithmic" : "linear"),
      [across]: scale(view.y, view.y.log ? "logarithmic" : "linear"),
    };
    if (bars) {
      scales[along].grid.display = false;
      scales[along].ticks.autoSkip = view.x.categories.length > 60;
      scales[along].ticks.maxRotation = lying ? 0 : 60;
      scales[along].ticks.callback = function (index) {
        // Upright bars have room for a line an item of the name.
        const lines = this.getLabelForValue(index).split(lying ? "\n" : ", "), room = lying ? 34 : 26;
        return lines.map((line) => line.length > room ? `${line.slice(0, room - 1)}…` : line);
      };
      scales[across].beginAtZero = true;
    }
    const title = ([item]) => {
      if (item === undefined) return "";
      if (bars) return item.label;
      const x = labelled(view.x, item.parsed.x);
      return `${view.x.label} ${x}`;
    };
    return {
      type: bars ? "bar" : "line",
      data: { labels: view.x.categories, datasets: sets },
      options: {
        indexAxis: along,
        scales,
        interaction: chart.kind === "line" ? { mode: "nearest", axis: "x", intersect: false } : { mode: "nearest", intersect: true },
        plugins: {
          legend: { display: false },
          tooltip: {
            usePointStyle: true,
            backgroundColor: colour("raised"), titleColor: colour("ink"), bodyColor: colour("ink"),
            borderColor: colour("rule"), borderWidth: 1, padding: 10, boxPadding: 5,
            filter: (item) => !item.dataset.behind,
            callbacks: {
              title,
              label: (item) => ` ${item.dataset.label}: ${number(lying ? item.parsed.x : item.parsed.y)}`,
            },
          },
        },
      },
      plugins: [marks],
    };
  };

  // --- One chart of the page. ---
  const drawn = [];
  const draw = (figure) => {
    const chart = charts[Number(figure.dataset.chart)];
    const [controls, legend] = [".controls", ".legend"].map((name) => figure.querySelector(name));
    const canvas = figure.querySelector("canvas");
    const chosen = chart.switches.map(() => 0), hidden = new Set();
    let smooth = false, live;
    // The last switch varies fastest.
    const view = () => chart.views[chosen.reduce((at, option, i) => at * chart.switches[i].options.length + option, 0)];

    const redraw = () => {
      live?.destroy();
      const now = view();
      if (chart.kind === "bars") {
        const rows = now.x.categories.length * Math.max(1, now.series.length);
        figure.querySelector(".drawing").style.height = `${Math.max(120, 60 + 24 * rows)}px`;
      }
      live = new Chart(canvas, described(chart, now, smooth, hidden));
    };

    chart.switches.forEach((choice, index) => {
      if (choice.options.length < 2) return;
      const label = document.createElement("label"), select = document.createElement("select");
      choice.options.forEach((option) => select.add(new Option(option)));
      select.addEventListener("change", () => { chosen[index] = select.selectedIndex; redraw(); });
      label.append(choice.label, select);
      controls.append(label);
    });
    if (chart.smooth) {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.addEventListener("change", () => { smooth = box.checked; redraw(); });
      label.append(box, `smooth (exponential moving average, ${SMOOTHING})`);
      controls.append(label);
    }

    // A button for each network, or for each curve that belongs to none; a key for shapes that mean something else.
    const seen = new Map(), all = chart.views.flatMap((view) => view.series);
    for (const series of all) {
      const key = series.network ?? series.name;
      if (seen.has(key)) continue;
      seen.set(key, series);
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const name = series.shape ? networks[series.network].name : series.name;
      button.append(symbol(series.network, series.shape ? null : series.network), name);
      button.addEventListener("click", () => {
        const shown = hidden.has(key);
        shown ? hidden.delete(key) : hidden.add(key);
        button.setAttribute("aria-pressed", String(shown));
        redraw();
      });
      if (series.network != null) legend.append(button);
    }
    const ways = new Map(all.filter((series) => series.shape).map((series) => [series.shape, series.way]));
    for (const [shape, way] of ways) {
      const key = document.createElement("span");
      key.className = "label";
      key.append(symbol(null, null, shape), way);
      legend.append(key);
    }
    drawn.push(redraw);
    redraw();
  };

  /** The marker of a network: its colour, and its shape or a disc; or a shape alone. */
  const SHAPES = ["circle", "rect", "triangle", "rectRot", "crossRot", "cross", "star"];
  function symbol(network, shaped, shape) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg"), use = document.createElementNS(space, "use");
    const index = shape ? SHAPES.indexOf(shape) : shaped == null ? 0 : networks[shaped].symbol;
    svg.setAttribute("class", "marker");
    if (network != null) svg.style.color = `var(--network-${networks[network].colour})`;
    use.setAttribute("href", `#shape-${index}`);
    svg.append(use);
    return svg;
  }

  document.querySelectorAll("figure.chart").forEach(draw);
  const redrawAll = () => drawn.forEach((redraw) => redraw());

  // --- Light and dark. ---
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const theme = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const name = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    name();
    redrawAll();
  });
  dark.addEventListener("change", () => { name(); redrawAll(); });
  name();

  // --- On paper: light, and every table open. ---
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    redrawAll();
  });
  addEventListener("afterprint", () => {
    if (before === undefined) delete root.dataset.theme; else root.dataset.theme = before;
    redrawAll();
  });
})();
