// What the page shows. Text of files and models goes in as text, never as HTML.

import type { ModelInfo, Verdict } from "./model";
import { toImageData, type Pixels } from "./pixels";

/** Finds what index.html promises. */
export function find<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`index.html has no #${id}`);
  return found as T;
}

/** An element with properties and children. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A fraction as a percentage. */
export function share(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

/** A duration. */
export function duration(milliseconds: number): string {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

/** One line about the model. */
export function describe({ classes, exits, input }: ModelInfo): string {
  const colour = input.channels === 1 ? "grey" : "colour";
  return `A network of ${exits.length} exits for ${colour} images of ${input.size}\u00a0×\u00a0${input.size} pixels, ${classes.length} classes.`;
}

/** The place of one image in the list of results. */
export class Card {
  readonly root: HTMLLIElement;
  private readonly verdict = element("div", { className: "verdict" });

  /** `source` is what the image is shown from. */
  constructor(title: string, source: string, pixels: Pixels) {
    const seen = element("canvas", { title: "What the model sees" });
    seen.width = seen.height = pixels.size;
    seen.getContext("2d")?.putImageData(toImageData(pixels), 0, 0);
    seen.setAttribute("role", "img");
    seen.setAttribute("aria-label", `${title}, as the model sees it`);
    this.root = element(
      "li",
      { className: "card" },
      element("div", { className: "pictures" }, element("img", { src: source, alt: title }), seen),
      this.verdict,
      element("p", { className: "title" }, title),
    );
  }

  show(verdict: Verdict, info: ModelInfo): void {
    const { exitIndex, macsRatio } = verdict;
    const exit = `Exit ${exitIndex + 1} of ${info.exits.length}`;
    const confidence = Number.isNaN(verdict.confidence) ? "not a number" : share(verdict.confidence);
    this.verdict.replaceChildren(
      element("p", { className: "class" }, element("strong", {}, verdict.className), ` ${confidence}`),
      element("p", {}, element("span", { className: "exit" }, exit), ` · ${duration(verdict.milliseconds)}`),
      costBar(macsRatio, info),
      element("p", { className: "cost" }, `${share(macsRatio)} of main's MACs`),
    );
  }
}

/** From nothing to what the deepest exit costs; a tick at each exit, and how far this image has gone. */
function costBar(macsRatio: number, { exit_macs, main_macs }: ModelInfo): HTMLElement {
  const whole = Math.max(...exit_macs);
  const fill = element("div", { className: "fill" });
  fill.style.width = `${(100 * macsRatio * main_macs) / whole}%`;
  const ticks = exit_macs.slice(0, -1).map((macs) => {
    const tick = element("div", { className: "tick" });
    tick.style.left = `${(100 * macs) / whole}%`;
    return tick;
  });
  const bar = element("div", { className: "bar" }, fill, ...ticks);
  bar.setAttribute("aria-hidden", "true"); // the line below says it
  return bar;
}

/** Means over all images, and how many left at each exit. */
export function summary(verdicts: readonly Verdict[], info: ModelInfo): HTMLElement[] {
  if (verdicts.length === 0) return [element("p", { className: "hint" }, "No image yet.")];
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const macs = share(mean(verdicts.map(({ macsRatio }) => macsRatio)));
  const time = duration(mean(verdicts.map(({ milliseconds }) => milliseconds)));
  const images = verdicts.length === 1 ? "1 image" : `${verdicts.length} images`;
  const rows = info.exits.map((exit, index) => {
    const count = verdicts.filter(({ exitIndex }) => exitIndex === index).length;
    const fill = element("div", { className: "fill" });
    fill.style.width = `${(100 * count) / verdicts.length}%`;
    const bar = element("div", { className: "bar" }, fill);
    bar.setAttribute("aria-hidden", "true");
    return element("li", {}, element("span", {}, `Exit ${index + 1} · ${exit.name}`), bar, element("span", {}, `${count}`));
  });
  return [
    element("p", {}, `${images}: on average `, element("strong", {}, `${macs} of main's MACs`), ` and ${time}.`),
    element("ul", { className: "exits", ariaLabel: "Images that left at each exit" }, ...rows),
    element("p", { className: "hint" }, "MACs are multiply-adds. Every exit on the way costs some, so the last one is above main."),
  ];
}
