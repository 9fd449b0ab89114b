/** Numbers as people read them. */

const WHOLE = new Intl.NumberFormat("en");

export const whole = (number) => WHOLE.format(Math.round(number));

/** Three digits or so: 0.42, 7.3, 128. */
export function short(number) {
  if (number >= 100 || number === 0) return whole(number);
  return number.toFixed(number >= 10 ? 1 : 2);
}

/** 1024 B is "1 KiB". */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit ? short(number) : whole(number)} ${units[unit]}`;
}

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

/** "3 images", "1 image". */
export const count = (number, word, words = `${word}s`) => `${whole(number)} ${number === 1 ? word : words}`;

/** "4 h 12 min", "52 s". */
export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}
