// Draws the dashboard with what tests/metrics/recorded.rs recorded: `node draw.mjs dashboard.json recorded.json echarts.min.js preview.png`.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [dashboardFile, recordedFile, library, picture] = process.argv.slice(2);
const dashboard = JSON.parse(readFileSync(dashboardFile, "utf8"));
const height = 8 + 31 * Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
const folder = mkdtempSync(join(tmpdir(), "dashboard-preview-"));
const json = (text) => text.replaceAll("<", "\\u003c");
const page = join(folder, "page.html");
writeFileSync(page, `<!doctype html><meta charset="utf-8"><body><script>${readFileSync(library, "utf8")}</script>
<script>const dashboard = ${json(JSON.stringify(dashboard))}, recorded = ${json(readFileSync(recordedFile, "utf8"))};</script>
<script>${readFileSync(new URL("page.js", import.meta.url), "utf8")}</script>`);
const options = ["--headless", "--disable-gpu", "--hide-scrollbars", `--user-data-dir=${join(folder, "profile")}`, `--window-size=1600,${height}`, `--screenshot=${picture}`];
// Chromium refuses its sandbox to root.
if (process.getuid() === 0) options.push("--no-sandbox");
try {
  execFileSync(process.env.CHROMIUM ?? "chromium", [...options, `file://${page}`], { stdio: ["ignore", "ignore", "pipe"], timeout: 60_000 });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
