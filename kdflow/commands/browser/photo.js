// A picture as the network takes it, as kdflow/catalogue/datasets/photo.py makes it: turned as its
// EXIF orientation says, seen on white, its shorter side resized, its longer one cropped, centred.

const LARGEST = 4096; // pixels of the longer side: browsers limit a canvas
const BICUBIC = -0.5; // Pillow's parameter; a canvas would resize in another way in each browser

/** The pixels of an image file, Float32Array of side x side x channels values 0 to 255; rejects
 * where the browser cannot decode it. */
export async function pixelsOf(file, side, channels) {
  const rgb = resized(await decoded(file), side);
  return Float32Array.from(channels === 1 ? grey(rgb) : rgb);
}

/** ImageData of the whole picture. */
async function decoded(file) {
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * picture.width));
  canvas.height = Math.max(1, Math.round(scale * picture.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** The square in the middle, resized as Pillow does: the rows first, then the columns, each rounded
 * to whole numbers. RGB, side x side x 3. */
function resized({ data, width, height }, side) {
  const size = Math.min(width, height);
  const narrow = new Uint8ClampedArray(height * side * 3);
  taps(width, size, side).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++)
      for (let channel = 0; channel < 3; channel++) {
        const from = 4 * (y * width + first) + channel;
        narrow[3 * (y * side + x) + channel] = sum(data, from, 4, weights);
      }
  });
  const square = new Uint8ClampedArray(side * side * 3);
  taps(height, size, side).forEach(({ first, weights }, y) => {
    for (let i = 0; i < 3 * side; i++)
      square[3 * side * y + i] = sum(narrow, 3 * side * first + i, 3 * side, weights);
  });
  return square;
}

function sum(values, from, step, weights) {
  let total = 0;
  for (let i = 0; i < weights.length; i++) total += weights[i] * values[from + i * step];
  return total;
}

/** For each of `side` new pixels, which of `length` old ones it is made of, and with what weights:
 * of the `size` ones in the middle and those beside them. */
function taps(length, size, side) {
  const scale = size / side;
  const blur = Math.max(scale, 1); // an enlarged picture is not blurred
  return Array.from({ length: side }, (_, index) => {
    const centre = (length - size) / 2 + (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * blur + 0.5));
    const end = Math.min(length, Math.trunc(centre + 2 * blur + 0.5));
    const near = Array.from({ length: end - first }, (_, i) =>
      bicubic((first + i - centre + 0.5) / blur),
    );
    const all = near.reduce((a, b) => a + b);
    return { first, weights: near.map((weight) => weight / all) };
  });
}

function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1;
  if (x < 2) return BICUBIC * (((x - 5) * x + 8) * x - 4);
  return 0;
}

/** Luminance by Pillow's integers (ITU-R 601-2). */
function grey(rgb) {
  return Array.from(
    { length: rgb.length / 3 },
    (_, i) => (19595 * rgb[3 * i] + 38470 * rgb[3 * i + 1] + 7471 * rgb[3 * i + 2] + 0x8000) >> 16,
  );
}
