// Joins the parts of the page: images come in, are classified one by one, and again when a threshold moves.

import { connectCamera } from "./camera";
import { Model, ModelProblem, text, type Verdict } from "./model";
import { readImage, type Pixels } from "./pixels";
import { Thresholds } from "./sliders";
import { Card, describe, element, find, summary } from "./view";

const FOLDER = "model";
const MOST_IMAGES = 100;
const MOST_BYTES = 100e6;

interface Entry {
  card: Card;
  pixels: Pixels;
  source: string;
  verdict?: Verdict;
}

/** The page with a model that has loaded. */
function start(model: Model): void {
  const { info } = model;
  const results = find("results");
  const thresholds = new Thresholds(info.thresholds, () => void classifyAll());
  let entries: Entry[] = []; // newest first
  let busy = false;
  let again = false;

  async function classifyAll(): Promise<void> {
    again = true; // a run in progress starts over, so that a slider never waits for old values
    if (busy) return;
    busy = true;
    results.ariaBusy = "true";
    while (again) {
      again = false;
      await classifyEach([...entries], [...thresholds.values]).catch((error: unknown) => {
        complain([`The model could not be run: ${text(error)}`]);
      });
    }
    busy = false;
    results.ariaBusy = "false";
  }

  async function classifyEach(all: Entry[], values: number[]): Promise<void> {
    for (const entry of all) {
      if (again) return;
      entry.verdict = await model.classify(entry.pixels, values);
      entry.card.show(entry.verdict, info);
    }
    const verdicts = all.flatMap(({ verdict }) => verdict ?? []);
    find("summary").replaceChildren(...summary(verdicts, info));
  }

  async function add(files: { blob: Blob; title: string }[]): Promise<void> {
    complain([]);
    const fresh: Entry[] = [];
    const problems: string[] = [];
    for (const { blob, title } of files) {
      // One after the other: a decoded photograph takes 50 MB.
      await readEntry(blob, title).then(
        (entry) => fresh.push(entry),
        (error: unknown) => problems.push(text(error)),
      );
    }
    complain(problems);
    const kept = [...fresh, ...entries];
    kept.splice(MOST_IMAGES).forEach(({ source }) => URL.revokeObjectURL(source));
    show(kept);
  }

  async function readEntry(blob: Blob, title: string): Promise<Entry> {
    if (blob.size > MOST_BYTES) throw new Error(`${title} is larger than 100 MB: make it smaller.`);
    const pixels = await readImage(blob, info.input).catch(() => {
      throw new Error(`${title} is no image that this browser can read: take a PNG or JPEG file.`);
    });
    const source = URL.createObjectURL(blob);
    return { card: new Card(title, source, pixels), pixels, source };
  }

  function show(kept: Entry[]): void {
    entries = kept;
    results.replaceChildren(...entries.map(({ card }) => card.root));
    find("clear").hidden = entries.length === 0;
    void classifyAll();
  }

  async function addSample(file: string, title: string): Promise<void> {
    const response = await fetch(`${FOLDER}/${file}`).catch(() => null);
    if (response?.ok) await add([{ blob: await response.blob(), title }]);
    else complain([`${file} could not be fetched.`]);
  }

  connectInputs(add);
  connectCamera(
    find("camera"),
    find("viewfinder"),
    find("capture"),
    (blob) => void add([{ blob, title: "Camera" }]),
    (message) => complain([message]),
  );
  find("samples").replaceChildren(
    ...info.samples.map(({ file, title }) => {
      const button = element("button", { type: "button" }, element("img", { src: `${FOLDER}/${file}`, alt: title }));
      button.addEventListener("click", () => void addSample(file, title));
      return element("li", {}, button);
    }),
  );
  find("calibrated").addEventListener("click", () => thresholds.reset());
  find("clear").addEventListener("click", () => {
    entries.forEach(({ source }) => URL.revokeObjectURL(source));
    show([]);
    find("files").focus();
  });
  find("all-exits").replaceChildren(thresholds.rows.all);
  find("sliders").replaceChildren(...thresholds.rows.each);
  find("each-exit").hidden = info.thresholds.length < 2;
  find("facts").textContent = describe(info);
  show([]);
  find("app").hidden = false;
}

/** Files that are chosen or dropped anywhere on the page. */
function connectInputs(add: (files: { blob: Blob; title: string }[]) => Promise<void>): void {
  const give = (files: FileList | null | undefined) => {
    if (files?.length) void add(Array.from(files, (file) => ({ blob: file, title: file.name })));
  };
  const chooser = find<HTMLInputElement>("files");
  const zone = find("drop");
  chooser.addEventListener("change", () => {
    give(chooser.files);
    chooser.value = ""; // the same file may be chosen again
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser would open the file
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    give(event.dataTransfer?.files);
  });
}

/** Says what went wrong, instead of what it said before. */
function complain(messages: string[]): void {
  find("messages").replaceChildren(...messages.map((message) => element("p", {}, message)));
}

Model.load(FOLDER)
  .then(start)
  .catch((error: unknown) => {
    find("facts").textContent = "The model could not be loaded.";
    complain([error instanceof ModelProblem ? error.message : `The page could not start: ${text(error)}`]);
  });
