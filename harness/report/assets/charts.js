"use strict";
/* Scaling curves and calibration. Colours are the page's own variables: dark mode and print follow. */
(() => {
  const data = window.reportData;
  const SHAPES = ["circle", "diamond", "triangle", "rect"]; // in the order of the legend
  const INK = "var(--ink)", SOFT = "var(--soft)", RULE = "var(--rule)", ACCENT = "var(--accent)";
  const charts = [];

  const short = (n) => {
    for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
      if (n >= unit) return `${+(n / unit).toPrecision(3)}${letter}`;
    return String(n);
  };
  const plain = (text) => String(text).replaceAll("{", "(").replaceAll("}", ")"); // no rich-text marks
  const shape = (column) => SHAPES[column % SHAPES.length];

  function axis(more) {
    return {
      nameLocation: "middle", nameTextStyle: { color: SOFT, fontSize: 11 },
      axisLine: { lineStyle: { color: RULE } }, axisTick: { show: false },
      axisLabel: { color: SOFT, fontSize: 11 }, splitLine: { lineStyle: { color: RULE, width: 0.6 } },
      ...more,
    };
  }

  const base = {
    animation: false, textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    tooltip: {
      renderMode: "richText", confine: true, backgroundColor: "var(--raised)", borderColor: RULE,
      textStyle: { color: INK, fontSize: 12 }, shadowBlur: 0, extraCssText: "",
    },
  };
  const still = { emphasis: { disabled: true } };

  function line(points, style, more) {
    return {
      type: "line", data: points, symbol: "none", silent: true, lineStyle: { color: SOFT, width: 1.2, ...style },
      ...still, ...more,
    };
  }

  function curve(c) {
    const xs = [...c.paper, ...c.runs].map((p) => p.x);
    const tip = (p) => ({ formatter: plain(`${p.name}\n${p.text}\n${short(p.x)} parameters`) });
    const paper = c.paper.map((p) => ({ value: [p.x, p.y], tooltip: tip(p), label: { formatter: plain(p.name) } }));
    const series = [line(paper, { type: "dashed" }, {
      silent: false, symbol: "circle", symbolSize: 7, itemStyle: { color: "var(--ground)", borderColor: SOFT, borderWidth: 1.5 },
      label: { show: true, position: "top", color: SOFT, fontSize: 10 },
    })];
    if (c.kaplan) series.push(line(c.kaplan, { type: "dotted" }));
    if (c.fit) series.push(line(c.fit, { color: ACCENT, width: 1.6 }));
    for (const p of c.runs) {
      const same = c.runs.filter((other) => other.x === p.x); // side by side, or they would hide each other
      const x = p.x * 1.07 ** (same.indexOf(p) - (same.length - 1) / 2);
      if (p.low !== null) series.push(line([[x, p.low], [x, p.high]], { color: ACCENT, width: 1.4, opacity: 0.6 }));
      series.push({
        type: "scatter", data: [{ value: [x, p.y], tooltip: tip(p) }], symbol: shape(p.column), symbolSize: 10,
        itemStyle: { color: ACCENT, borderColor: "var(--ground)", borderWidth: 1 }, z: 5, ...still,
      });
    }
    return {
      ...base, grid: { left: 8, right: 16, top: 18, bottom: 8, containLabel: true },
      xAxis: axis({
        type: "log", min: Math.min(...xs) / 1.6, max: Math.max(...xs) * 1.6, splitLine: { show: false },
        axisLabel: { color: SOFT, fontSize: 11, formatter: short, showMinLabel: false, showMaxLabel: false },
      }),
      yAxis: axis({ type: c.log ? "log" : "value", logBase: 2, scale: true,
        axisLabel: { color: SOFT, fontSize: 11, formatter: (v) => String(+v.toPrecision(3)) } }),
      series,
    };
  }

  function calibration(plots) {
    const largest = Math.max(...plots.flatMap((plot) => plot.bins.map((bin) => bin.answers)));
    const series = [line([[0, 0], [1, 1]], { type: "dashed" })];
    for (const plot of plots)
      series.push({
        type: "line", symbol: shape(plot.column), lineStyle: { color: ACCENT, width: 1, opacity: 0.5 },
        itemStyle: { color: ACCENT, borderColor: "var(--ground)" }, ...still,
        data: plot.bins.map((bin) => ({
          value: [bin.confidence, bin.accuracy], symbolSize: 7 + 15 * Math.sqrt(bin.answers / largest),
          tooltip: { formatter: plain(`${plot.label}\n${bin.answers} answers\nmean probability ` +
            `${(100 * bin.confidence).toFixed(1)} %\nright ${(100 * bin.accuracy).toFixed(1)} %`) },
        })),
      });
    const percent = { color: SOFT, fontSize: 11, formatter: (v) => `${Math.round(100 * v)} %` };
    return {
      ...base, grid: { left: 26, right: 20, top: 16, bottom: 30, containLabel: true },
      xAxis: axis({ type: "value", min: 0, max: 1, name: "probability of the answer", nameGap: 28, axisLabel: percent }),
      yAxis: axis({ type: "value", min: 0, max: 1, name: "share that is right", nameGap: 42, axisLabel: percent }),
      series,
    };
  }

  const options = new Map(); // place -> what is drawn there, once it comes near the screen
  for (const place of document.querySelectorAll("[data-curve]"))
    options.set(place, () => curve(data.curves[place.dataset.curve]));
  if (data.calibration.length)
    options.set(document.getElementById("calibration-chart"), () => calibration(data.calibration));

  function draw(place) {
    if (!options.has(place)) return;
    const chart = echarts.init(place, null, { renderer: "svg" });
    chart.setOption(options.get(place)());
    options.delete(place);
    charts.push(chart);
  }

  const watch = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen)
      if (isIntersecting) {
        watch.unobserve(target);
        draw(target);
      }
  }, { rootMargin: "400px" });
  for (const place of options.keys()) watch.observe(place);

  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return; // a phone's address bar comes and goes
    width = document.documentElement.clientWidth;
    for (const chart of charts) chart.resize();
  });
  addEventListener("beforeprint", () => {
    for (const place of [...options.keys()]) draw(place);
    for (const chart of charts) chart.resize({ width: 285 });
  });
  addEventListener("afterprint", () => { for (const chart of charts) chart.resize({ width: "auto" }); });
})();
