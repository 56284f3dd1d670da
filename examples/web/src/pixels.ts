// Image files to the model's input as Python reads them: the integer arithmetic of Pillow, which lays a picture over
// black, makes it grey and resizes it, so that the page and `lcprune predict` say the same.

/** An image as the model takes it. */
export interface Pixels {
  /** `channels` planes of `size` x `size` bytes, one after the other. */
  planes: Uint8Array;
  channels: number;
  size: number;
}

const MAX_PIXELS = 4096 * 4096; // iOS refuses a larger canvas
const PRECISION_BITS = 22; // of a weight, in Pillow

/**
 * Decodes a file, turned upright as its EXIF data says, and resizes it, whatever its proportions were.
 *
 * A picture of more than 16 million pixels is first made smaller by the browser, so it may differ from Python's reading
 * by a level or two.
 */
export async function readImage(file: Blob, size: number, channels: number): Promise<Pixels> {
  // A colour profile would change the bytes; Pillow does not look at it either.
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { data, width, height } = draw(bitmap);
  bitmap.close();
  const planes = new Uint8Array(channels * size * size);
  for (let channel = 0; channel < channels; channel++) {
    const plane = channels === 1 ? grey(data) : one(data, channel);
    planes.set(resize(plane, width, height, size), channel * size * size);
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

/**
 * One plane to `size` x `size`: every row first, then every column, rounded to bytes in between. Pillow 13 takes the
 * columns of some tall pictures first, which may differ by one level.
 */
function resize(plane: Uint8Array, width: number, height: number, size: number): Uint8Array {
  const narrow = new Uint8Array(height * size);
  filters(width, size).forEach(({ start, weights }, x) => {
    for (let y = 0; y < height; y++) narrow[y * size + x] = weigh(plane, y * width + start, 1, weights);
  });
  const small = new Uint8Array(size * size);
  filters(height, size).forEach(({ start, weights }, y) => {
    for (let x = 0; x < size; x++) small[y * size + x] = weigh(narrow, start * size + x, size, weights);
  });
  return small;
}

interface Filter {
  /** First place that counts. */
  start: number;
  /** Of this place and those after it, times 2^22. */
  weights: Int32Array;
}

/** For each of the `to` places, what it takes of the `from` ones: bilinear, and a mean of all where it shrinks. */
function filters(from: number, to: number): Filter[] {
  const scale = from / to;
  const support = Math.max(scale, 1); // antialiasing: as wide as what becomes one pixel
  return Array.from({ length: to }, (_, index) => {
    const center = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const raw = Array.from({ length: end - start }, (_, step) =>
      Math.max(0, 1 - Math.abs((start + step - center + 0.5) / support)),
    );
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    return { start, weights: Int32Array.from(raw, (weight) => Math.floor(0.5 + (weight / total) * 2 ** PRECISION_BITS)) };
  });
}

function weigh(values: Uint8Array, first: number, stride: number, weights: Int32Array): number {
  let sum = 1 << (PRECISION_BITS - 1); // one half, for rounding
  for (let step = 0; step < weights.length; step++) sum += values[first + step * stride] * weights[step];
  return Math.min(255, sum >> PRECISION_BITS);
}
