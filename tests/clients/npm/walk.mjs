// A program like one that somebody else would write: it uses fhir-kit-client and knows nothing of the server.
// It writes one line of JSON for every step; on its input it gets where the browser was sent back to.
import { createHash } from 'node:crypto';
import { createInterface } from 'node:readline';
import { Client } from 'fhir-kit-client';

const [base, clientId, redirect, scope] = process.argv.slice(2);
const say = (told) => console.log(JSON.stringify(told));
const ids = (bundle) => (bundle.entry ?? []).map((one) => one.resource.id);
const status = async (asked) => {
  try {
    await asked;
    return 200;
  } catch (refused) {
    return refused.response?.status;
  }
};

const fhir = new Client({ baseUrl: base });
const statement = await fhir.capabilityStatement();
const { authorizeUrl, tokenUrl } = await fhir.smartAuthMetadata();
const verifier = 'k'.repeat(60);
const asked = {
  response_type: 'code',
  client_id: clientId,
  redirect_uri: redirect,
  scope,
  state: 'from-node',
  aud: base,
  code_challenge: createHash('sha256').update(verifier).digest('base64url'),
  code_challenge_method: 'S256',
};
say({ version: statement.fhirVersion, authorize: `${authorizeUrl}?${new URLSearchParams(asked)}` });

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const back = new URL((await lines.next()).value);
const form = {
  grant_type: 'authorization_code',
  code: back.searchParams.get('code'),
  redirect_uri: redirect,
  client_id: clientId,
  code_verifier: verifier,
};
const answer = await fetch(tokenUrl, { method: 'POST', body: new URLSearchParams(form) });
const token = await answer.json();
fhir.bearerToken = token.access_token;
const patient = await fhir.read({ resourceType: 'Patient', id: token.patient });
let page = await fhir.search({ resourceType: 'Observation', searchParams: { patient: token.patient, _count: 2 } });
const found = [];
while (page) {
  found.push(...ids(page));
  page = await fhir.nextPage({ bundle: page });
}
say({
  state: back.searchParams.get('state'),
  patient: patient.id,
  found,
  compartment: ids(
    await fhir.compartmentSearch({
      resourceType: 'Observation',
      compartment: { resourceType: 'Patient', id: token.patient },
      searchParams: { _id: 'kit-1' },
    }),
  ),
  subject: (await fhir.resolve({ reference: `Patient/${token.patient}` })).id,
  nobody: await status(fhir.read({ resourceType: 'Patient', id: 'nobody' })),
  hidden: await status(fhir.read({ resourceType: 'Observation', id: 'kit-hidden' })),
  write: await status(fhir.create({ resourceType: 'Observation', body: { resourceType: 'Observation' } })),
});

await lines.next();
say({ after: await status(fhir.read({ resourceType: 'Patient', id: token.patient })) });

// With the token of one of the organisation's own systems.
fhir.bearerToken = (await lines.next()).value;
const made = await fhir.create({
  resourceType: 'Observation',
  body: {
    resourceType: 'Observation',
    status: 'final',
    code: { text: 'Pulse' },
    subject: { reference: `Patient/${token.patient}` },
  },
});
const changed = await fhir.update({ resourceType: 'Observation', id: made.id, body: { ...made, status: 'amended' } });
const patched = await fhir.patch({
  resourceType: 'Observation',
  id: made.id,
  jsonPatch: [{ op: 'replace', path: '/status', value: 'corrected' }],
});
const first = await fhir.vread({ resourceType: 'Observation', id: made.id, version: '1' });
const history = await fhir.history({ resourceType: 'Observation', id: made.id });
const batch = await fhir.batch({
  body: {
    resourceType: 'Bundle',
    type: 'batch',
    entry: [
      { request: { method: 'GET', url: `Observation/${made.id}` } },
      { request: { method: 'GET', url: 'Observation/nobody' } },
    ],
  },
});
const everything = await fhir.operation({
  name: '$everything',
  resourceType: 'Patient',
  id: token.patient,
  method: 'GET',
});
say({
  statuses: [first.status, changed.status, patched.status],
  versions: history.entry.map((one) => one.resource.meta.versionId),
  batch: batch.entry.map((one) => one.response.status.slice(0, 3)),
  everything: ids(everything).includes(made.id) || everything.link.some((one) => one.relation === 'next'),
  removed: await status(fhir.delete({ resourceType: 'Observation', id: made.id })),
});
lines.return();
process.exit(0);
