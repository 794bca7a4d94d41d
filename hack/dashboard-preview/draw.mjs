// Draws the data that tests/metrics/recorded.rs recorded: one picture of all the data, and one of each story.
// `node draw.mjs dashboard.json recorded.json echarts.min.js docs/images` writes docs/images/dashboard.png and
// docs/images/dashboard-<story>.png.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [dashboardFile, recordedFile, library, images] = process.argv.slice(2);
const dashboard = JSON.parse(readFileSync(dashboardFile, "utf8"));
const recorded = JSON.parse(readFileSync(recordedFile, "utf8"));
recorded.origin = recorded.from;

// The panels of each story, in addition to the first row.
const STORY_PANELS = {
  leader: ["Leadership by replica", "Services over time", "Age of the last renewal", "Leader changes", "Ready endpoints by Service"],
  server: ["API servers by probes", "Services over time", "Unreachable endpoints", "Probes by result", "Ready endpoints by Service"],
  outage: ["Leadership by replica", "Services over time", "Requests by code", "Silence of watches", "Age of the last renewal"],
  refused: ["Services", "What is wrong now", "Services over time", "Findings"],
};

// A story is drawn from a minute before its start. Its tiles show the moment `at`, to which its description refers.
function picture({ name, from, at, to }) {
  const first = dashboard.panels.filter(({ gridPos, type }) => gridPos.y < 5 && type !== "row");
  const others = STORY_PANELS[name].map((title) => dashboard.panels.find((panel) => panel.title === title));
  if (others.includes(undefined)) throw new Error(`a panel of ${name} is missing`);
  const panels = first.map((panel) => ({ ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y - 1 } }));
  let x = 0, y = 4;
  const graphs = others.filter(({ type }) => type === "timeseries").length;
  for (const panel of others) {
    const w = panel.type === "timeseries" ? 24 / graphs : panel.gridPos.w, { h } = panel.gridPos;
    panels.push({ ...panel, gridPos: { x, y, w, h } });
    x = (x + w) % 24;
    if (x === 0) y += h;
  }
  return [`dashboard-${name}`, panels, { ...recorded, from: Math.max(recorded.origin, from - 60), to, at }];
}

function draw([picture, panels, view]) {
  const height = 8 + 31 * Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const folder = mkdtempSync(join(tmpdir(), "dashboard-preview-"));
  const json = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");
  const page = join(folder, "page.html");
  writeFileSync(page, `<!doctype html><meta charset="utf-8"><body><script>${readFileSync(library, "utf8")}</script>
<script>const dashboard = ${json({ ...dashboard, panels })}, recorded = ${json(view)};</script>
<script>${readFileSync(new URL("page.js", import.meta.url), "utf8")}</script>`);
  const file = join(images, `${picture}.png`);
  const options = ["--headless", "--disable-gpu", "--hide-scrollbars", `--user-data-dir=${join(folder, "profile")}`, `--window-size=1600,${height}`, `--screenshot=${file}`];
  // Chromium has no sandbox for root.
  if (process.getuid() === 0) options.push("--no-sandbox");
  try {
    execFileSync(process.env.CHROMIUM ?? "chromium", [...options, `file://${page}`], { stdio: ["ignore", "ignore", "pipe"], timeout: 60_000 });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

draw(["dashboard", dashboard.panels, { ...recorded, at: recorded.to }]);
recorded.stories.map(picture).forEach(draw);
