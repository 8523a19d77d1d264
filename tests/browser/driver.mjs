// Drives one Chromium for the tests: reads a wish a line, answers a line. The story is told by the tests, in Rust.
// Every wait ends by itself; whatever the page complains about is kept until it is asked for.

import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [modules, chromium] = process.argv.slice(2);
const playwright = await import(pathToFileURL(join(modules, "playwright-core", "index.mjs")));
const axe = readFileSync(join(modules, "axe-core", "axe.min.js"), "utf8");

// The sandbox of Chromium refuses to run as root, which containers are.
const args = process.getuid() === 0 ? ["--no-sandbox"] : [];
const browser = await playwright.chromium.launch({ executablePath: chromium, args });
const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, reducedMotion: "reduce" });
context.setDefaultTimeout(30_000);
const page = await context.newPage();

let problems = [];
page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
page.on("console", (message) => {
  if (!["error", "warning"].includes(message.type())) return;
  problems.push(`${message.type()}: ${message.text()} (${message.location().url})`);
});

const place = ({ role, name, within, exact = true }) => {
  const scope = within ? page.locator(within).first() : page;
  return scope.getByRole(role, { name, exact }).first();
};

const wishes = {
  open: ({ url }) => page.goto(url, { waitUntil: "commit" }),
  click: (wish) => place(wish).click(),
  press: ({ key }) => page.keyboard.press(key),
  fill: ({ label, value, within }) => (within ? page.locator(within).first() : page).getByLabel(label, { exact: true }).first().fill(value),
  pick: ({ label }) => page.getByLabel(label, { exact: true }).first().check({ force: true }),
  see: ({ text, within, patience }) =>
    page.locator(within || "body").getByText(text).filter({ visible: true }).first().waitFor({ timeout: patience || 30_000 }),
  read: ({ selector }) => page.locator(selector).first().innerText(),
  // The page's own policy forbids what the library's wait would do.
  until: async ({ script, patience }) => {
    const end = Date.now() + (patience || 30_000);
    for (;;) {
      if (await page.evaluate(script).catch(() => false)) return;
      if (Date.now() > end) throw new Error(`never true; the page says: ${(await page.locator("body").innerText()).slice(0, 1500)}`);
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
  },
  evaluate: ({ script }) => page.evaluate(script),
  look: async ({ width, height, dark }) => {
    if (width) await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
  },
  shot: ({ path }) => page.screenshot({ path }),
  // Requests whose address contains the text get no answer.
  hold: ({ text }) => page.route((url) => url.href.includes(text), () => {}),
  problems: () => {
    const told = problems;
    problems = [];
    return told;
  },
  // What is serious or worse, a line each.
  axe: async () => {
    await page.evaluate(axe);
    const { violations } = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })");
    return violations
      .filter(({ impact }) => ["serious", "critical"].includes(impact))
      .flatMap(({ id, help, nodes }) => nodes.map((node) => `${id}: ${help}: ${node.html.slice(0, 200)} ${node.failureSummary.replace(/\s+/g, " ").slice(0, 300)}`));
  },
};

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
answer({ ok: "ready" });
for await (const line of createInterface({ input: process.stdin })) {
  const { wish, ...rest } = JSON.parse(line);
  try {
    const value = await wishes[wish](rest);
    answer({ ok: ["read", "evaluate", "problems", "axe"].includes(wish) ? value ?? null : null });
  } catch (error) {
    const shown = await page.locator("dialog, #view").allInnerTexts().catch(() => []);
    answer({ error: String(error.message).split("\n").slice(0, 40).join("\n"), page: shown.join("\n--\n").slice(0, 3000) });
  }
}
await browser.close();
