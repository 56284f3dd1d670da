// The thresholds: one slider for all exits, and one for each.

import { NEVER } from "./model";
import { element, share } from "./view";

const STEP = 0.001;

interface Slider {
  row: HTMLElement;
  show(value: number, label: string): void;
}

/** The sliders of a model; `values` is what the model is fed. */
export class Thresholds {
  values: number[];
  private readonly all: Slider;
  private readonly each: Slider[];

  constructor(
    private readonly calibrated: readonly number[],
    private readonly changed: () => void,
  ) {
    this.values = [...calibrated];
    this.all = slider("threshold-all", "All exits", (value) => this.set(this.values.map(() => value)));
    this.each = calibrated.map((_, k) =>
      slider(`threshold-${k + 1}`, `Exit ${k + 1}`, (value) => this.set(this.values.map((old, other) => (other === k ? value : old)))),
    );
    this.show();
  }

  get rows(): { all: HTMLElement; each: HTMLElement[] } {
    return { all: this.all.row, each: this.each.map(({ row }) => row) };
  }

  reset(): void {
    this.set([...this.calibrated]);
  }

  private set(values: number[]): void {
    this.values = values;
    this.show();
    this.changed();
  }

  private show(): void {
    const same = this.values.every((value) => value === this.values[0]);
    const mean = this.values.reduce((sum, value) => sum + value, 0) / this.values.length;
    this.all.show(mean, same ? describe(mean) : "each its own");
    this.each.forEach((one, k) => one.show(this.values[k], describe(this.values[k])));
  }
}

function describe(threshold: number): string {
  return threshold > 1 ? "never" : share(threshold);
}

function slider(id: string, label: string, moved: (value: number) => void): Slider {
  const input = element("input", { type: "range", id, min: "0", max: String(NEVER), step: String(STEP) });
  const output = element("output", { htmlFor: id });
  // The slider snaps to its steps and a calibrated value does not, so only a move by hand is read from it.
  input.addEventListener("input", () => moved(input.valueAsNumber));
  return {
    row: element("div", { className: "slider" }, element("label", { htmlFor: id }, label), output, input),
    show(value, shown) {
      input.value = String(Math.min(value, NEVER));
      input.setAttribute("aria-valuetext", shown);
      output.value = shown;
    },
  };
}
