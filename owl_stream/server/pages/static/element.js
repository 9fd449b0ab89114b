/** Elements from data. Everything goes in as text nodes and attributes: nothing is ever parsed as HTML. */

const PLAIN = /^(aria-[a-z]+|data-[a-z-]+|class|colspan|for|height|href|id|max|min|name|role|scope|tabindex|title|type|value|viewBox|width|d|x|y|x1|x2|y1|y2|preserveAspectRatio|inputmode|datetime)$/;
const SVG = new Set(["svg", "path", "line", "text", "g"]);

/**
 * `attributes` are plain ones; `vars` sets custom properties, `on` listeners. Children that are null or false are left
 * out, strings and numbers become text.
 */
export function element(tag, attributes = {}, ...children) {
  const made = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "vars") for (const [key, number] of Object.entries(value)) made.style.setProperty(`--${key}`, number);
    else if (name === "on") for (const [event, listen] of Object.entries(value)) made.addEventListener(event, listen);
    else if (name === "disabled" || name === "hidden" || name === "selected") made[name] = Boolean(value);
    else if (PLAIN.test(name)) made.setAttribute(name, String(value));
    else throw new Error(`attribute ${name} is not one that pages use`);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}
