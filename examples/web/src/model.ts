// The progressive model: what it says about itself, and running it. onnxruntime-web does not show a model's metadata,
// so prepare.py writes it as model.json beside the file.

import { InferenceSession, Tensor, env } from "onnxruntime-web/wasm";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import { KERNELS, type Pixels, type Preparation } from "./pixels";

// Threads need headers that a plain file server does not send, and gain nothing on one small image.
env.wasm.numThreads = 1;
env.wasm.wasmPaths = { wasm: wasmUrl };
env.logLevel = "error";

/** No confidence reaches it: nobody leaves early. */
export const NEVER = 1.01;

const CRITERIA = ["softmax", "margin", "entropy", "agreement"] as const;

/** What the graph holds against the thresholds. */
export type Criterion = (typeof CRITERIA)[number];

/** model.json, as prepare.py writes it. */
export interface ModelInfo {
  /** Name of the ONNX file, beside model.json. */
  file: string;
  classes: string[];
  input: Preparation;
  /** Shallow first, main last. */
  exits: { name: string; test_accuracy_pct: number | null }[];
  /** What an image has cost that leaves at each exit, in MACs. */
  exit_macs: number[];
  /** Of the whole network without critics. */
  main_macs: number;
  /** Calibrated, one per early exit. */
  thresholds: number[];
  criterion: Criterion;
  /** By which the logits of each exit are divided where their score is taken. */
  temperatures: number[];
  samples: { file: string; title: string }[];
}

/** What the model says about one image. */
export interface Verdict {
  className: string;
  /** Score of the model's criterion at the exit where the image left; NaN where a logit is not finite. */
  confidence: number;
  exitIndex: number;
  /** MACs paid over those of main. */
  macsRatio: number;
  milliseconds: number;
}

/** Something that the reader of the page can fix. */
export class ModelProblem extends Error {}

export class Model {
  private constructor(
    readonly info: ModelInfo,
    private readonly session: InferenceSession,
  ) {}

  /** Loads `folder`/model.json and the ONNX file that it names; throws `ModelProblem` with what is wrong. */
  static async load(folder: string): Promise<Model> {
    const info = await readInfo(`${folder}/model.json`);
    const response = await fetch(`${folder}/${info.file}`).catch(() => null);
    if (!response?.ok) throw new ModelProblem(`${info.file} could not be fetched: run prepare.py again.`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const session = await InferenceSession.create(bytes, { executionProviders: ["wasm"] }).catch((error: unknown) => {
      throw new ModelProblem(`onnxruntime-web cannot load ${info.file}: ${text(error)}`);
    });
    const inputs = [...session.inputNames].sort().join();
    if (inputs !== "image,threshold" || !session.outputNames.includes("exit_index")) {
      throw new ModelProblem(
        `${info.file} does not take thresholds: export it with --progressive --threshold-input required.`,
      );
    }
    const model = new Model(info, session);
    await model.warmUp();
    return model;
  }

  /** Classifies one image; `thresholds` has one value per early exit. */
  async classify({ planes, channels, size }: Pixels, thresholds: readonly number[]): Promise<Verdict> {
    const feeds = {
      image: new Tensor("float32", Float32Array.from(planes, (byte) => byte / 255), [1, channels, size, size]),
      threshold: new Tensor("float32", Float32Array.from(thresholds), [thresholds.length]),
    };
    const start = performance.now();
    const outputs = await this.session.run(feeds);
    const milliseconds = performance.now() - start;
    const logits = outputs.logits.data as Float32Array;
    const exitIndex = Number((outputs.exit_index.data as BigInt64Array)[0]);
    return {
      className: this.info.classes[largest(logits)],
      confidence: confidence(logits, this.info.criterion, this.info.temperatures[exitIndex]),
      exitIndex,
      macsRatio: this.info.exit_macs[exitIndex] / this.info.main_macs,
      milliseconds,
    };
  }

  /** The first runs allocate; an image shall not be timed with that. */
  private async warmUp(): Promise<void> {
    const { size, channels } = this.info.input;
    const blank = { planes: new Uint8Array(channels * size * size), channels, size };
    const deepest = this.info.thresholds.map(() => NEVER);
    for (let run = 0; run < 3; run++) await this.classify(blank, deepest);
  }
}

async function readInfo(url: string): Promise<ModelInfo> {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) {
    throw new ModelProblem("There is no model here yet: run prepare.py with a run or a model, then load this page again.");
  }
  const info: unknown = await response.json().catch(() => null);
  if (!isInfo(info)) throw new ModelProblem("model.json is damaged: run prepare.py again.");
  return info;
}

function isInfo(value: unknown): value is ModelInfo {
  const info = value as Partial<ModelInfo> | null;
  return (
    typeof info?.file === "string" &&
    Array.isArray(info.classes) &&
    Array.isArray(info.samples) &&
    typeof info.main_macs === "number" &&
    Number.isInteger(info.input?.size) &&
    Number.isInteger(info.input?.channels) &&
    info.input !== undefined &&
    (info.input.shorter_side === null || Number.isInteger(info.input.shorter_side)) &&
    Object.hasOwn(KERNELS, info.input.interpolation) &&
    info.exits !== undefined &&
    info.exits.length > 1 &&
    info.exit_macs?.length === info.exits.length &&
    info.thresholds?.length === info.exits.length - 1 &&
    info.temperatures?.length === info.exits.length &&
    info.criterion !== undefined &&
    CRITERIA.includes(info.criterion)
  );
}

function largest(logits: Float32Array): number {
  let best = 0;
  for (let index = 1; index < logits.length; index++) if (logits[index] > logits[best]) best = index;
  return best;
}

/** As `lcprune.ProgressiveSession` has it: a row that leaves by agreement agrees, so its largest probability remains. */
function confidence(logits: Float32Array, criterion: Criterion, temperature: number): number {
  if (!logits.every(Number.isFinite)) return NaN;
  const first = largest(logits);
  const below = Array.from(logits, (logit) => (logit - logits[first]) / temperature);
  const exponents = below.map(Math.exp); // the largest is exp(0) = 1
  const total = exponents.reduce((sum, exponent) => sum + exponent, 0);
  if (criterion === "margin") return (1 - Math.max(...exponents.filter((_, index) => index !== first))) / total;
  if (criterion === "entropy") {
    const mean = below.reduce((sum, value, index) => sum + value * exponents[index], 0) / total;
    return Math.abs(1 - (Math.log(total) - mean) / Math.log(Math.max(logits.length, 2)));
  }
  return 1 / total;
}

/** The message of whatever was thrown. */
export function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
