// Image files to the model's input as Python reads them: the integer arithmetic of Pillow, which lays a picture over
// black, makes it grey, resizes it and cuts out its middle, so that the page and `lcprune predict` say the same.

/** How an image file becomes the input: `lcprune.input` of the model's metadata. */
export interface Preparation {
  /** Height and width in pixels. */
  size: number;
  /** 3 for RGB, 1 for grey. */
  channels: number;
  /** Antialiased. */
  interpolation: keyof typeof KERNELS;
  /** To how many pixels the shorter side is scaled before the middle is cut out; null: the picture is stretched. */
  shorter_side: number | null;
}

/** An image as the model takes it. */
export interface Pixels {
  /** `channels` planes of `size` x `size` bytes, one after the other. */
  planes: Uint8Array;
  channels: number;
  size: number;
}

const MAX_PIXELS = 4096 * 4096; // iOS refuses a larger canvas
const PRECISION_BITS = 22; // of a weight, in Pillow
const LONGEST = 8; // times the shorter side: of a longer picture only the middle is scaled

interface Kernel {
  /** How far from a pixel its weights reach, in pixels. */
  reach: number;
  weight: (distance: number) => number;
}

export const KERNELS = {
  bilinear: { reach: 1, weight: (x: number) => Math.max(0, 1 - x) },
  bicubic: {
    reach: 2,
    weight: (x: number) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0),
  },
} satisfies Record<string, Kernel>;

/**
 * Decodes a file, turned upright as its EXIF data says, and makes of it what the model wants.
 *
 * A picture of more than 16 million pixels is first made smaller by the browser, so it may differ from Python's reading
 * by a level or two.
 */
export async function readImage(file: Blob, wanted: Preparation): Promise<Pixels> {
  const { size, channels } = wanted;
  // A colour profile would change the bytes; Pillow does not look at it either.
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { data, width, height } = draw(bitmap);
  bitmap.close();
  const [columns, rows] = layOut(width, height, wanted);
  const planes = new Uint8Array(channels * size * size);
  for (let channel = 0; channel < channels; channel++) {
    const plane = channels === 1 ? grey(data) : one(data, channel);
    planes.set(resize(plane, width, columns, rows), channel * size * size);
  }
  return { planes, channels, size };
}

/** What the model sees, for a canvas. */
export function toImageData({ planes, channels, size }: Pixels): ImageData {
  const image = new ImageData(size, size);
  const area = size * size;
  for (let index = 0; index < area; index++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * index + channel] = planes[index + (channels === 1 ? 0 : channel * area)];
    }
    image.data[4 * index + 3] = 255;
  }
  return image;
}

function draw(bitmap: ImageBitmap): ImageData {
  const shrink = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(bitmap.width * shrink));
  canvas.height = Math.max(1, Math.floor(bitmap.height * shrink));
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  if (context === null) throw new Error("this browser gives no canvas");
  context.fillStyle = "black"; // under what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** By the weights of ITU-R 601, as Pillow's mode L. */
function grey(rgba: Uint8ClampedArray): Uint8Array {
  const plane = new Uint8Array(rgba.length / 4);
  for (let index = 0; index < plane.length; index++) {
    const [red, green, blue] = [rgba[4 * index], rgba[4 * index + 1], rgba[4 * index + 2]];
    plane[index] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16;
  }
  return plane;
}

function one(rgba: Uint8ClampedArray, channel: number): Uint8Array {
  const plane = new Uint8Array(rgba.length / 4);
  for (let index = 0; index < plane.length; index++) plane[index] = rgba[4 * index + channel];
  return plane;
}

/** For each column and each row of the input, what it takes of the picture's. */
function layOut(width: number, height: number, wanted: Preparation): [Filter[], Filter[]] {
  const { size, shorter_side: shorterSide, interpolation } = wanted;
  const shorter = Math.min(width, height);
  const most = shorterSide === null ? Infinity : shorter * LONGEST;
  return [width, height].map((length) => {
    const kept = Math.min(length, most);
    const scaled = shorterSide === null ? size : Math.floor((kept * shorterSide) / shorter);
    const all = filters(length, kept, scaled, KERNELS[interpolation]);
    const first = (scaled - size) >> 1; // what is odd stays right and below
    return all.slice(first, first + size);
  }) as [Filter[], Filter[]];
}

/**
 * One plane to as many pixels as there are `columns` and `rows`: every row first, then every column, rounded to bytes in
 * between. Pillow 13 takes the columns of some tall pictures first, which may differ by one level.
 */
function resize(plane: Uint8Array, width: number, columns: Filter[], rows: Filter[]): Uint8Array {
  const size = columns.length;
  const top = rows[0].start;
  const last = rows[rows.length - 1];
  const height = last.start + last.weights.length - top; // of what is read
  const narrow = new Uint8Array(height * size);
  columns.forEach(({ start, weights }, x) => {
    for (let y = 0; y < height; y++) narrow[y * size + x] = weigh(plane, (top + y) * width + start, 1, weights);
  });
  const small = new Uint8Array(rows.length * size);
  rows.forEach(({ start, weights }, y) => {
    for (let x = 0; x < size; x++) small[y * size + x] = weigh(narrow, (start - top) * size + x, size, weights);
  });
  return small;
}

interface Filter {
  /** First place that counts. */
  start: number;
  /** Of this place and those after it, times 2^22. */
  weights: Int32Array;
}

/** For each of the `to` places, what it takes of the middle `kept` of `length` ones: a mean of all where it shrinks. */
function filters(length: number, kept: number, to: number, kernel: Kernel): Filter[] {
  const left = (length - kept) >> 1;
  const scale = kept / to;
  const wide = Math.max(scale, 1); // antialiasing: as wide as what becomes one pixel
  const support = kernel.reach * wide;
  return Array.from({ length: to }, (_, index) => {
    const center = left + (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5)); // it may reach beyond what is kept
    const end = Math.min(length, Math.trunc(center + support + 0.5));
    const raw = Array.from({ length: end - start }, (_, step) =>
      kernel.weight(Math.abs((start + step - center + 0.5) * (1 / wide))),
    );
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    return { start, weights: Int32Array.from(raw, (weight) => rounded((weight / total) * 2 ** PRECISION_BITS)) };
  });
}

/** To the nearest whole number, halves away from zero. */
function rounded(value: number): number {
  return Math.trunc(value + (value < 0 ? -0.5 : 0.5));
}

function weigh(values: Uint8Array, first: number, stride: number, weights: Int32Array): number {
  let sum = 1 << (PRECISION_BITS - 1); // one half, for rounding
  for (let step = 0; step < weights.length; step++) sum += values[first + step * stride] * weights[step];
  return Math.max(0, Math.min(255, sum >> PRECISION_BITS));
}
