/** Questions to the server. */

/** The server's own words for why it did not answer as asked. */
export class Refused extends Error {}

async function ask(path, signal) {
  const answer = await fetch(path, { signal, headers: { Accept: "application/json" } });
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // A proxy's page, say: the status is all there is.
  }
  throw new Refused(message);
}

export const json = async (path, signal) => (await ask(path, signal)).json();

/** The root of what the server says of one dataset. */
export const dataset = (name) => `/pages/datasets/${encodeURIComponent(name)}`;
