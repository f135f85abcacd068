/** The lock file of all consumers lies a folder above this app. @type {import("next").NextConfig} */
export default { turbopack: { root: new URL("..", import.meta.url).pathname } };
