// Draws recorded data like the dashboard, with its grid, titles, units, colors, texts and legends. Runs in a browser.
// `dashboard` has the panels to draw, and `recorded` their data, with `from` and `to` for graphs and `at` for tiles.

const PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#fade2a", "#ffa6b0", "#37872d", "#a352cc", "#c8f2c2"];
const NAMED = { green: "#73bf69", "semi-dark-green": "#56a64b", yellow: "#f2cc0c", orange: "#ff9830", red: "#f2495c", blue: "#5794f2", purple: "#b877d9", text: "#ccccdc" };
const WIDTH = 1600, UNIT = 31, GAP = 8;
const color = (name) => NAMED[name] ?? name;

function format(value, unit) {
  const short = (number) => String(Number(number.toPrecision(3)));
  if (unit === "s") return value !== 0 && Math.abs(value) < 1 ? `${short(value * 1000)} ms` : `${short(value)} s`;
  if (unit === "bytes") return `${Math.round(value / 1024 ** 2)} MiB`;
  if (unit === "percentunit") return `${short(value * 100)} %`;
  if (unit === "ops") return `${short(value)} ops/s`;
  if (unit === "reqps") return `${short(value)} req/s`;
  if (unit === "dateTimeFromNow") return `${Math.round(recorded.at - value / 1000)} seconds ago`;
  return short(value);
}

// Grafana trims the result of `{{label}}`.
const legend = (text, labels) => text.replace(/{{(\w+)}}/g, (_, label) => labels[label] ?? "").trim();

function seriesOf(panel) {
  return panel.targets.flatMap((target) => {
    const { series } = recorded.shown.find((shown) => shown.panel === panel.id && shown.target === target.refId);
    return series.map(({ metric, values }) => ({
      target: target.refId, metric, name: legend(target.legendFormat, metric),
      values: values.map(([time, value]) => [time * 1000, Number(value)])
        .filter(([time, value]) => !Number.isNaN(value) && time >= recorded.from * 1000 && time <= recorded.to * 1000),
    })).filter(({ values }) => values.length > 0);
  });
}

// The distance between two points of a panel, in milliseconds.
const stepOf = (panel) => 1000 * recorded.shown.find((shown) => shown.panel === panel.id).step;

// The result of an instant query at `recorded.at`: the last point up to that time, if it is less than a step old then.
const current = (panel) => seriesOf(panel)
  .map((series) => ({ ...series, last: series.values.filter(([time]) => time <= recorded.at * 1000).at(-1) }))
  .filter(({ last }) => last && recorded.at * 1000 - last[0] < stepOf(panel)).map((series) => ({ ...series, value: series.last[1] }));

function override(panel, name, property) {
  const found = panel.fieldConfig.overrides.find(({ matcher }) => matcher.options === name);
  return found?.properties.find(({ id }) => id === property)?.value;
}

function threshold(thresholds, value) {
  const reached = thresholds.steps.filter((step) => step.value === null || value >= step.value);
  return color(reached.at(-1).color);
}

// The text and color of a value.
function shown(panel, value, name) {
  const { mappings, unit } = panel.fieldConfig.defaults;
  const thresholds = override(panel, name, "thresholds") ?? panel.fieldConfig.defaults.thresholds;
  for (const { type, options } of mappings) {
    const result = type === "value" ? options[String(value)]
      : (options.from ?? -Infinity) <= value && value <= (options.to ?? Infinity) ? options.result : undefined;
    if (result) return { text: result.text, color: color(result.color) };
  }
  return { text: format(value, unit), color: threshold(thresholds, value) };
}

function element(parent, kind, style, text) {
  const made = document.createElement(kind);
  made.style.cssText = style;
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

const nothing = (panel, body) => element(body, "div", `margin:auto;color:${panel.type === "bargauge" ? color(panel.fieldConfig.defaults.thresholds.steps[0].color) : "#8e8e99"}`,
  panel.fieldConfig.defaults.noValue ?? "No data");

function stat(panel, body) {
  const values = current(panel), { colorMode, textMode } = panel.options;
  // Like Grafana, uses the base color of the steps.
  const base = color(panel.fieldConfig.defaults.thresholds.steps[0].color);
  if (values.length === 0) values.push({ name: "", look: { text: panel.fieldConfig.defaults.noValue ?? "No data", color: base } });
  for (const { name, value, look: none } of values) {
    const own = override(panel, name, "color");
    const { text, color: reached } = none ?? shown(panel, value, name);
    const look = own ? color(own.fixedColor) : reached;
    const box = element(body, "div", `flex:1;display:flex;flex-direction:column;align-items:center;justify-content:center;border-radius:3px;${
      colorMode === "background" ? `background:${look};color:#111217` : `color:${colorMode === "none" ? "#ccccdc" : look}`}`);
    // Like Grafana, makes the text as large as the space allows.
    const size = (shown, most) => Math.min(most, (body.clientWidth / values.length - 12) / (0.57 * shown.length)).toFixed(1);
    element(box, "div", `font-size:${size(text, 30)}px;font-weight:500`, text);
    if (textMode === "value_and_name" && name) element(box, "div", `font-size:${size(name, values.length > 1 ? 14 : 20)}px`, name);
  }
}

function bars(panel, body) {
  const values = current(panel);
  if (values.length === 0) return nothing(panel, body);
  body.style.cssText += "flex-direction:column;justify-content:flex-start";
  const most = Math.max(...values.map(({ value }) => value));
  for (const { name, value } of values) {
    const line = element(body, "div", "display:flex;align-items:center;gap:10px;margin:6px 0");
    element(line, "div", "width:150px", name);
    const track = element(line, "div", "flex:1");
    element(track, "div", `height:22px;width:${100 * value / most}%;background:${shown(panel, value).color}`);
    element(line, "div", `font-size:18px;color:${shown(panel, value).color}`, format(value, "none"));
  }
}

function table(panel, body) {
  const { excludeByName, indexByName, renameByName } = panel.transformations.find(({ id }) => id === "organize").options;
  const rows = new Map();
  for (const { target, metric, value } of current(panel)) {
    const key = JSON.stringify(metric);
    rows.set(key, { ...metric, ...rows.get(key), [`Value #${target}`]: value });
  }
  const present = [...rows.values()].flatMap((row) => Object.keys(row));
  const columns = Object.keys(indexByName).filter((name) => !excludeByName[name] && present.includes(name)).sort((a, b) => indexByName[a] - indexByName[b]);
  const [{ displayName, desc }] = panel.options.sortBy;
  const by = columns.find((name) => renameByName[name] === displayName);
  const sorted = [...rows.values()].sort((a, b) => (desc ? -1 : 1) * ((a[by] ?? 0) - (b[by] ?? 0)));
  const made = element(body, "table", "width:100%;border-collapse:collapse;align-self:flex-start");
  const cell = "padding:7px 8px;border-bottom:1px solid #2c2d33;text-align:left;font-weight:400;";
  const head = element(made, "tr", "color:#6e9fff");
  for (const name of columns) element(head, "th", cell, renameByName[name] ?? name);
  for (const row of sorted) {
    const line = element(made, "tr", "");
    for (const name of columns) {
      const title = renameByName[name] ?? name, value = row[name];
      const thresholds = override(panel, title, "thresholds");
      const text = typeof value === "number" ? format(value, override(panel, title, "unit") ?? "none") : value ?? panel.fieldConfig.defaults.noValue;
      element(line, "td", cell + (thresholds && value !== undefined ? `background:${threshold(thresholds, value)};color:#111217` : ""), text);
    }
  }
}

const clock = (time) => {
  const seconds = Math.round(time / 1000 - recorded.origin);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
};
const axes = { axisLabel: { color: "#8e8e99", fontSize: 11 }, axisLine: { lineStyle: { color: "#2c2d33" } }, splitLine: { lineStyle: { color: "#24252b" } } };
const timeAxis = { type: "value", min: recorded.from * 1000, max: recorded.to * 1000, interval: recorded.to - recorded.from > 300 ? 60_000 : 30_000, ...axes, axisLabel: { ...axes.axisLabel, formatter: clock, hideOverlap: true } };

function timeline(panel, body) {
  const all = seriesOf(panel), step = stepOf(panel);
  if (all.length === 0) return nothing(panel, body);
  const names = all.map(({ name }) => name);
  const spans = all.flatMap(({ values }, row) => {
    const merged = [];
    for (const [time, value] of values) {
      const look = shown(panel, value), last = merged.at(-1);
      if (last && last.look.text === look.text && time - last.end < 1) last.end = time + step;
      else merged.push({ row, start: time, end: time + step, look });
    }
    return merged;
  });
  const draw = (params, api) => {
    const { look } = spans[params.dataIndex];
    const [left, y] = api.coord([api.value(1), api.value(0)]), [right] = api.coord([Math.min(api.value(2), recorded.to * 1000), api.value(0)]);
    const height = api.size([0, 1])[1] * 0.85, width = right - left;
    return { type: "rect", shape: { x: left, y: y - height / 2, width, height }, style: { fill: look.color, opacity: 0.85 },
      textContent: { style: { text: width > 8 * look.text.length ? look.text : "", fill: "#111217", fontSize: 13 } }, textConfig: { position: "insideLeft" } };
  };
  echarts.init(body, null, { renderer: "svg" }).setOption({
    animation: false, grid: { left: 175, right: 12, top: 4, bottom: 24 }, xAxis: timeAxis,
    yAxis: { type: "category", data: names, inverse: true, ...axes, axisLabel: { color: "#ccccdc", fontSize: 12 }, splitLine: { show: false } },
    series: [{ type: "custom", renderItem: draw, encode: { x: [1, 2], y: 0 }, data: spans.map(({ row, start, end }) => [row, start, end]) }],
  });
}

// The times of annotations.
function marks() {
  const lines = [];
  for (const { name, series } of recorded.annotations) {
    const annotation = dashboard.annotations.list.find((one) => one.name === name);
    for (const { values } of series) {
      const begins = values.filter(([time], at) => at === 0 || time - values[at - 1][0] > recorded.scrape);
      const moments = annotation.useValueForTime ? [...new Set(values.map(([, value]) => Number(value)))] : begins.map(([time]) => time * 1000);
      for (const time of moments.filter((time) => time >= recorded.from * 1000 && time <= recorded.to * 1000)) lines.push({ xAxis: time, lineStyle: { color: color(annotation.iconColor), type: "dashed", width: 1 } });
    }
  }
  return lines;
}

function graph(panel, body) {
  const all = seriesOf(panel), step = stepOf(panel);
  if (all.length === 0) return nothing(panel, body);
  const { custom, unit, thresholds } = panel.fieldConfig.defaults;
  const isBars = custom.drawStyle === "bars", shift = (custom.barAlignment ?? 0) * step / 2, stack = custom.stacking.mode === "normal" ? "all" : undefined;
  // Bars are stacked by their index, so all series get the same times.
  const moments = [...new Set(all.flatMap(({ values }) => values.map(([time]) => time)))].sort();
  const aligned = (values) => moments.map((time) => [time + shift, new Map(values).get(time) ?? 0]);
  const heights = stack ? moments.map((_, at) => all.reduce((sum, { values }) => sum + aligned(values)[at][1], 0)) : all.flatMap(({ values }) => values.map(([, value]) => value));
  const highest = Math.max(...heights);
  const limits = (custom.thresholdsStyle ? thresholds.steps : []).filter(({ value }) => value !== null && value <= highest * 3)
    .map((step) => ({ yAxis: step.value, lineStyle: { color: color(step.color), type: "dashed" } }));
  const reach = Math.max(highest, ...limits.map(({ yAxis }) => yAxis));
  const letters = all.reduce((sum, { name }) => sum + name.length * 6.6 + 26, 0);
  const lines = Math.ceil(letters / (body.clientWidth - 10));
  const series = all.map(({ name, values }, at) => {
    const own = override(panel, name, "color"), look = own ? color(own.fixedColor) : PALETTE[at % PALETTE.length];
    const withGaps = [];
    for (const [time, value] of values) {
      if (withGaps.length > 0 && time - withGaps.at(-1)[0] > step) withGaps.push([time - 1, null]);
      withGaps.push([time, value]);
    }
    return {
      name, type: isBars ? "bar" : "line", stack, data: isBars ? aligned(values) : withGaps, barWidth: isBars ? Math.max(4, body.clientWidth * step / (recorded.to - recorded.from) / 1000 * 0.4) : undefined, step: custom.lineInterpolation === "stepAfter" ? "end" : false,
      showSymbol: custom.showPoints === "always", symbol: "circle", symbolSize: custom.pointSize, itemStyle: { color: look }, lineStyle: { width: custom.lineWidth },
      areaStyle: isBars ? undefined : { opacity: custom.fillOpacity / 200 },
      markLine: at === 0 ? { silent: true, symbol: "none", label: { show: false }, data: [...limits, ...marks()] } : undefined,
    };
  });
  echarts.init(body, null, { renderer: "svg" }).setOption({
    animation: false, grid: { left: 8, right: 14, top: 12, bottom: 12 + 17 * lines, containLabel: true }, xAxis: timeAxis,
    yAxis: { type: "value", min: (range) => Math.min(custom.axisSoftMin ?? 0, range.min), max: custom.axisSoftMax ?? (reach > 0 ? reach * 1.1 : 1), ...axes, axisLabel: { ...axes.axisLabel, showMaxLabel: false, formatter: (value) => format(value, unit) } },
    legend: { bottom: 0, type: "plain", textStyle: { color: "#ccccdc", fontSize: 11 }, itemWidth: 14, itemHeight: 4, icon: "rect", itemGap: 8 }, series,
  });
}

const KINDS = { stat, bargauge: bars, table, "state-timeline": timeline, timeseries: graph };

document.body.style.cssText = `margin:0;background:#111217;color:#ccccdc;font:13px "DejaVu Sans",sans-serif;width:${WIDTH}px`;
for (const panel of dashboard.panels) {
  const { x, y, w, h } = panel.gridPos, column = (WIDTH - GAP) / 24;
  const place = `position:absolute;left:${GAP + x * column}px;top:${GAP + y * UNIT}px;width:${w * column - GAP}px;height:${h * UNIT - GAP}px;box-sizing:border-box;`;
  if (panel.type === "row") { element(document.body, "div", `${place}font-size:15px;font-weight:500;padding-top:2px`, `⌄ ${panel.title}`); continue; }
  const frame = element(document.body, "div", `${place}background:#181b1f;border:1px solid #2c2d33;border-radius:3px;padding:6px 8px;display:flex;flex-direction:column`);
  element(frame, "div", "font-weight:500;padding-bottom:5px", panel.title);
  const body = element(frame, "div", "flex:1;min-height:0;display:flex;gap:6px");
  KINDS[panel.type](panel, body);
}
