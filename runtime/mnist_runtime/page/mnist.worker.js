// Keeps the page, whose address is this worker's scope, for when its server cannot be reached. All else passes it by.

const page = self.registration.scope;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open("mnist").then((cache) => cache.add(page)));
});

self.addEventListener("fetch", (event) => {
  const { mode, url } = event.request;
  if (mode === "navigate" && url.split(/[?#]/)[0] === page) event.respondWith(newest(event.request));
});

/** Return the server's page, and keep a copy of it; without a server, return the copy. */
async function newest(request) {
  const cache = await caches.open("mnist");
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(page, response.clone());
    return response;
  } catch {
    return cache.match(page);
  }
}
