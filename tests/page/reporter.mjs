// Reports one line per test, the cause of each failure, and a line with the totals.

export default async function* report(events) {
  let [passed, failed] = [0, 0];
  for await (const { type, data } of events) {
    const isTest = data.details?.type !== "suite" && data.name && !data.name.endsWith(".test.mjs");
    if (type === "test:pass" && isTest) {
      passed += 1;
      yield `ok    ${data.name}\n`;
    } else if (type === "test:fail") {
      failed += 1;
      const cause = data.details.error.cause ?? data.details.error;
      yield `FAIL  ${data.name}\n${cause.stack ?? cause}\n`;
    } else if (type === "test:stderr") {
      yield data.message;
    }
  }
  yield `${passed} passed, ${failed} failed\n`;
}
