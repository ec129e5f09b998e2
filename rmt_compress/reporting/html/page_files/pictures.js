"use strict";
// The pictures of the page as Vega-Lite specifications, drawn where they are first seen. Colours are variables of the
// style sheet, so that the scheme may change under a picture.
(() => {
  const DATA = JSON.parse(document.getElementById("report-data").textContent);
  const COLORS = ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)"];
  const DASHES = [[1, 0], [7, 3], [2, 3], [9, 3, 2, 3], [4, 2], [12, 4]];
  const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
  const CONFIG = {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: "normal", domainColor: "var(--line)",
      tickColor: "var(--line)", gridColor: "var(--line)", gridOpacity: 0.6, labelFontSize: 12, titleFontSize: 12,
    },
    axisX: { grid: false },
    legend: { labelColor: "var(--muted)", labelFontSize: 12, labelLimit: 300, title: null, symbolStrokeWidth: 2 },
    text: { color: "var(--muted)", fontSize: 12 },
  };

  const quantitative = (field, title, scale, axis) => ({ field, type: "quantitative", title, scale, axis });
  const pairs = ([xs, ys]) => xs.map((x, index) => ({ x, y: ys[index] }));
  const even = ({ from, to, heights }) =>
    heights.map((y, index) => ({ x: from + ((to - from) * index) / (heights.length - 1), y }));
  const PLACES = { tickCount: 5, labelOverlap: "greedy", labelSeparation: 8, format: "~r" };
  const solid = (color) => ({ value: color });

  function spectrum(layer) {
    const at = (index) => layer.width * index;
    const bars = layer.bulk.flatMap((height, index) => [
      { a: at(index), b: at(index + 1), low: 0, high: height, part: "bulk" },
      { a: at(index), b: at(index + 1), low: height, high: height + layer.spike[index], part: "spike" },
    ]).filter((bar) => bar.high > bar.low);
    const x = quantitative("a", "eigenvalue λ = s²/n", { domain: [0, layer.right], nice: false }, PLACES);
    const y = quantitative("low", "density", { domain: [0, layer.top], nice: false }, { tickCount: 4 });
    const colors = { domain: ["bulk", "spike"], range: ["var(--bulk)", "var(--spike)"] };
    const layers = [
      {
        data: { values: bars },
        mark: { type: "bar", binSpacing: 0 },
        encoding: { x, x2: { field: "b" }, y, y2: { field: "high" }, color: { field: "part", type: "nominal", scale: colors, legend: null } },
      },
      {
        data: { values: layer.ticks.map((a) => ({ a })) },
        mark: { type: "tick", orient: "vertical", size: 12, thickness: 1.5, yOffset: -6 },
        encoding: { x, y: { value: "height" }, color: solid("var(--spike)") },
      },
      {
        data: { values: [{ a: layer.edge }] },
        mark: { type: "rule", strokeDash: [5, 4], strokeWidth: 1.5 },
        encoding: { x, color: solid("var(--law)") },
      },
    ];
    if (layer.law) {
      layers.push({
        data: { values: even(layer.law).map(({ x: a, y: low }) => ({ a, low })) },
        mark: { type: "line", strokeWidth: 2, clip: true },
        encoding: { x, y, color: solid("var(--law)") },
      });
    }
    if (layer.beyond) {
      layers.push({
        data: { values: [{ said: layer.beyond }] },
        mark: { type: "text", align: "right", dx: -2, dy: 12 },
        encoding: { x: { value: "width" }, y: { value: 0 }, text: { field: "said" }, color: solid("var(--spike)") },
      });
    }
    return { layer: layers };
  }

  function distribution(layer) {
    const x = quantitative("x", "eigenvalue λ = s²/n", { domain: [0, layer.high], nice: false }, PLACES);
    const y = quantitative("y", "share of eigenvalues below", { domain: [0, 1] }, { tickCount: 5, format: "%" });
    const [from, to] = layer.window;
    const line = (values, color, interpolate) => ({
      data: { values },
      mark: { type: "line", strokeWidth: 2, interpolate, clip: true },
      encoding: { x, y, color: solid(color) },
    });
    return {
      layer: [
        {
          data: { values: [{ x: from, to }] },
          mark: { type: "rect", opacity: 1 },
          encoding: { x, x2: { field: "to" }, color: solid("var(--window)") },
        },
        {
          data: { values: [{ x: layer.edge }] },
          mark: { type: "rule", strokeDash: [5, 4], strokeWidth: 1.5 },
          encoding: { x, color: solid("var(--law)") },
        },
        line(pairs(layer.steps), "var(--spike)", "step-after"),
        ...(layer.distribution ? [line(even(layer.distribution), "var(--law)", "linear")] : []),
      ],
    };
  }

  function calibrated({ points, kept, worth }) {
    const x = quantitative("x", "direction, the most valuable first", { nice: false, zero: false }, { ...PLACES, tickMinStep: 1 });
    const y = quantitative("y", worth, { type: "log", nice: false }, { tickCount: 4, format: "~e" });
    const line = (values, color) => ({
      data: { values: values.map(([x, y]) => ({ x, y })) },
      mark: { type: "line", strokeWidth: 2, point: { size: 14, filled: true, color } },
      encoding: { x, y, color: solid(color) },
    });
    const end = kept === null ? Infinity : kept;
    const layers = [
      line(points.filter(([place]) => place <= end), "var(--spike)"),
      line(points.filter(([place]) => place > end), "var(--bulk)"),
    ];
    if (kept !== null) {
      layers.push({
        data: { values: [{ x: kept + 0.5 }] },
        mark: { type: "rule", strokeDash: [5, 4], strokeWidth: 1.5 },
        encoding: { x, color: solid("var(--law)") },
      });
    }
    return { layer: layers };
  }

  const OF_A_LAYER = { spectrum, distribution, calibrated: (layer) => calibrated(layer.calibrated) };

  function curves(chart) {
    const values = chart.series.flatMap((each) => each.points.map(([x, y, said]) => ({ x, y, said, series: each.name })));
    const names = chart.series.map((each) => each.name);
    const many = names.length > 1;
    const scaled = (axis) => ({
      ...(axis.logarithmic ? { type: "log" } : { type: "linear", zero: axis.zero }),
      nice: false, padding: 8,
    });
    const ticks = (axis) => ({
      tickCount: 6, labelOverlap: "greedy", labelSeparation: 8,
      ...(axis.format ? { format: axis.format } : {}), ...(axis.whole ? { tickMinStep: 1 } : {}),
    });
    const x = quantitative("x", chart.x.title, scaled(chart.x), ticks(chart.x));
    const y = quantitative("y", chart.y.title, scaled(chart.y), ticks(chart.y));
    const cycle = (values) => names.map((_, index) => values[index % values.length]);
    const legend = many ? { orient: "bottom", columns: 1, direction: "vertical" } : null;
    const by = (range) => ({ field: "series", type: "nominal", scale: { domain: names, range: cycle(range) }, legend });
    const layers = [];
    for (const mark of chart.marks) {
      layers.push({
        data: { values: [{ x: mark }] },
        mark: { type: "rule", strokeDash: [3, 4], strokeWidth: 1, opacity: 0.6 },
        encoding: { x, color: solid("var(--muted)") },
      });
    }
    for (const level of chart.levels) {
      layers.push({
        data: { values: [{ y: level.y, said: level.said }] },
        mark: { type: "rule", strokeDash: [6, 4], strokeWidth: 1.2 },
        encoding: { y, color: solid("var(--muted)") },
      });
      layers.push({
        data: { values: [{ y: level.y, said: level.said }] },
        mark: { type: "text", align: "left", dx: 3, dy: 9 },
        encoding: { y, x: { value: 0 }, text: { field: "said" } },
      });
    }
    if (chart.joined) {
      layers.push({
        data: { values },
        mark: { type: "line", strokeWidth: 2, clip: true },
        encoding: { x, y, order: { field: "x" }, color: by(COLORS), strokeDash: by(DASHES) },
      });
    }
    layers.push({
      data: { values },
      mark: { type: "point", filled: true, size: chart.joined ? 30 : 60, opacity: 1 },
      encoding: { x, y, color: by(COLORS), shape: by(SHAPES), tooltip: { field: "said" } },
    });
    if (chart.chosen.length) {
      layers.push({
        data: { values: chart.chosen.map(([x, y, said]) => ({ x, y, said })) },
        mark: { type: "point", shape: "circle", filled: false, size: 260, strokeWidth: 2.5, opacity: 1 },
        encoding: { x, y, color: solid("var(--ink)"), tooltip: { field: "said" } },
      });
    }
    return { layer: layers };
  }

  function specification(place) {
    if (place.dataset.chart !== undefined) return curves(DATA.charts[place.dataset.chart]);
    return OF_A_LAYER[place.dataset.kind](DATA.layers[place.dataset.layer]);
  }

  async function draw(place) {
    const spec = {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      width: "container", height: 230, autosize: { type: "fit-x", contains: "padding" }, config: CONFIG,
      ...specification(place),
    };
    // The place says in words what it shows, and Vega would say of its container that it is a visualization.
    const inside = place.appendChild(document.createElement("div"));
    inside.setAttribute("aria-hidden", "true");
    const view = new vega.View(vega.parse(vegaLite.compile(spec).spec), { renderer: "svg", container: inside, hover: false });
    await view.runAsync();
    place.dataset.drawn = "yes";
  }

  window.drawPictures = (within) => {
    for (const place of within.querySelectorAll(".chart:not([data-drawn])")) {
      // The container has its width only while it is shown.
      if (place.offsetParent === null) continue;
      place.dataset.drawn = "begun";
      draw(place);
    }
  };
  window.drawPictures(document);
})();
