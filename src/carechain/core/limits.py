"""Every bound of the system in one place, with its unit in its name.

A limit is part of the protocol when the ledger checks it (then all nodes must agree on it) and a local
setting when only one node uses it. The two groups stand apart below.
"""

from typing import Final

from carechain.core.units import DAY_S

# --- protocol: the same on every node -------------------------------------------------------------------
ID_SIZE: Final = 32
NONCE_SIZE: Final = 16
SIGNATURE_SIZE: Final = 64
SM2_POINTS_REMEMBERED: Final = 4096
"""Public keys whose second coordinate is kept, since working it out takes a sixth as long as a verification."""
TX_SIZE_BYTES: Final = 64 * 1024
TX_MESSAGES: Final = 64
ACCESS_REQUESTS_PER_TX: Final = 8
TX_LIFETIME_S: Final = 600
REPLAY_BUCKET_S: Final = 60
CHAIN_ID_CHARS: Final = 48
CONSORTIUM_ID_BYTES: Final = 50
"""The engine takes no longer name."""
BLOCK_TXS: Final = 20_000
BLOCK_SIZE_BYTES: Final = 16 * 1024 * 1024
EVIDENCE_PER_BLOCK: Final = 64
PROPOSAL_BYTES: Final = 4 * 1024 * 1024
"""What the engine lets a block of several organisations hold, headers and votes included. It stands in every engine's
genesis: another figure would keep newcomers of running networks out."""

CERTIFICATE_SIZE_BYTES: Final = 4096
MEMBERS: Final = 1024
MEMBER_NAME_CHARS: Final = 80
STAFF_ROLES: Final = 8
LAPSE_MIN_DAYS: Final = 1
LAPSE_MAX_DAYS: Final = 3650

SUMMARY_SIZE_BYTES: Final = 16 * 1024
SUMMARY_BUCKET_BYTES: Final = 1024
REPRESENTATIVES_PER_PSEUDONYM: Final = 16

SCOPE_RECORDS: Final = 32
GRANT_LIFETIME_S: Final = 100 * 366 * DAY_S
GRANT_GRANTEES: Final = 16
GRANT_DEPTH: Final = 8
GRANTS_PER_PSEUDONYM: Final = 4096
GRANTS_PER_PAIR: Final = 32
GRANTS_BY_OTHERS_PER_PSEUDONYM: Final = GRANTS_PER_PSEUDONYM // 2
GRANTS_BY_OTHERS_PER_PAIR: Final = GRANTS_PER_PAIR // 2
AUTHOR_GRANT_LIFETIME_S: Final = 90 * DAY_S
STANDING_RULES_PER_PSEUDONYM: Final = 64
PENDING_REQUESTS_PER_PSEUDONYM: Final = 256
PENDING_REQUESTS_PER_ORGANISATION: Final = 64
PENDING_REQUESTS_PER_PAIR: Final = 4
REPLAY_IDS: Final = 4_000_000
REQUEST_LIFETIME_S: Final = 90 * DAY_S

RECORD_VERSIONS: Final = 100_000
LOCATOR_SIZE_BYTES: Final = 512
RESOURCES_PER_RECORD: Final = 65_536

TICKET_LIFETIME_S: Final = 900
RELEASE_DIGESTS: Final = 256

PROPOSAL_LIFETIME_S: Final = 30 * DAY_S
OPEN_PROPOSALS: Final = 256
PROPOSALS_PER_ORGANISATION: Final = 64
"""Of one organisation and in the state, those apart that passed: whoever makes one goes through them all."""
AGREEMENT_LIFETIME_S: Final = 10 * 366 * DAY_S
UPGRADE_NOTICE_BLOCKS: Final = 10
"""How far ahead an upgrade's height lies when it is proposed and when it is voted in."""
NODES_PER_ORGANISATION: Final = 16
CONSENSUS_KEYS_PER_ORGANISATION: Final = 4096
"""In an organisation's whole life: their addresses are never forgotten, so that old evidence still names somebody."""

KEYHOLDERS: Final = 32
CEREMONY_ROUND_MIN_S: Final = 5
CEREMONY_ROUND_MAX_S: Final = 7 * DAY_S
CAPSULE_SIZE_BYTES: Final = 512
"""More than a capsule has; its format says the exact size."""
KEY_CHANGES_PER_PARTY: Final = 1024
"""By the party itself, in its whole life: used keys are never forgotten. A recovery is not counted against it."""
FORMER_KEYS: Final = 8
"""Earlier keys that are kept with a party."""
FORMER_KEYS_S: Final = 7 * DAY_S
"""How long a member answers for what an earlier key of it signed; until then that key is kept."""
GUARDIANS_PER_PSEUDONYM: Final = 16
RECOVERIES_PER_PSEUDONYM: Final = 64
"""Attempts that run at the same time; every guardian may have one, and the registrar, and whoever has the cards."""
RECOVERY_OPEN_S: Final = 30 * DAY_S
"""How long an attempt waits for those who have to agree, and afterwards to be finished."""
CONTESTED_WAITS: Final = 4
"""How many waiting times a recovery takes that the key's holder has objected to."""
RECOVERY_WAIT_MAX_S: Final = 90 * DAY_S

STATE_KEY_BYTES: Final = 160
STATE_VALUE_BYTES: Final = 64 * 1024

QUERY_PAGE_ROWS: Final = 200
QUERY_SCAN_ROWS: Final = 20_000

# --- local: one node's own ------------------------------------------------------------------------------
SUBMIT_QUEUE_TXS: Final = 20_000
SUBMIT_QUEUE_BYTES: Final = 64 * 1024 * 1024
SUBMIT_BATCH_TXS: Final = 1_000
HTTP_BODY_BYTES: Final = 8 * 1024 * 1024
HTTP_ANSWER_BYTES: Final = 128 * 1024 * 1024
"""The most that a client reads of a node's answer: more than the largest block with its receipts."""
EVENT_STREAM_SUBSCRIBERS: Final = 256
EVENT_STREAMS_PER_PARTY: Final = 8
EVENT_STREAM_BACKLOG: Final = 10_000
SESSION_LIFETIME_S: Final = 600
SESSIONS: Final = 10_000
SESSIONS_PER_ORGANISATION: Final = 2_500
SESSIONS_PER_PARTY: Final = 64
CLOCK_SKEW_S: Final = 30
STALE_BLOCK_S: Final = 30
HEARTBEAT_S: Final = 5
SIGNATURE_CACHE: Final = 65_536
BUNDLE_SIZE_BYTES: Final = 64 * 1024 * 1024
BUNDLE_ENTRIES: Final = 20_000
BUNDLE_NESTING: Final = 64
REMOTE_SOURCES: Final = 16
"""Members that one remote reading asks."""
GATEKEEPER_RECORDS: Final = 500
GATEKEEPER_RESPONSE_BYTES: Final = 64 * 1024 * 1024
WALLET_FILE_BYTES: Final = 1024 * 1024
QUERY_BODY_BYTES: Final = 64 * 1024
OPENING_BODY_BYTES: Final = 4 * 1024
HTTP_BODY_S: Final = 30
"""How long a body may take to arrive."""
GENESIS_BYTES: Final = 16 * 1024 * 1024
SECRET_FILE_BYTES: Final = 4096
CONFIG_FILE_BYTES: Final = 1024 * 1024
FEED_RECENT_BYTES: Final = 8 * 1024 * 1024
"""Blocks kept at hand so that followers at the tip share one decoded copy."""
VERIFIER_WAITING_BYTES: Final = 128 * 1024 * 1024
"""The most that may wait for the worker; beyond it, verification happens here."""
VERIFIER_PATIENCE_S: Final = 5
"""How long the worker may owe a verdict without giving one; a frame takes it a twentieth of a second."""
ASSISTANT_PATIENCE_S: Final = 30
"""How long the assistant may be silent; half of the largest transaction takes it a second or two."""
RELEASES_AT_ONCE: Final = 4
"""Each may hold a whole answer in memory."""
RELEASE_REQUEST_BYTES: Final = 64 * 1024
"""More than the longest list of records needs."""
DATABASE_BUSY_S: Final = 30
PROOF_SIZE_BYTES: Final = 256 * 1024
"""More than the longest walk needs, with a branch of all symbols at every symbol; nothing larger is read."""
OBJECT_CHUNK_BYTES: Final = 64 * 1024
"""Part of the sealed object's format: the unit that is encrypted, checked and sought."""
OBJECT_SIZE_BYTES: Final = 1 << 40
SHARES_PER_REQUEST: Final = 500
"""Release shares a requester may ask one keyholder for at once."""
SHARES_REQUEST_BYTES: Final = SHARES_PER_REQUEST * (CAPSULE_SIZE_BYTES + 512)
"""More than a request for that many shares needs, and than the answer to it."""
SHARES_AT_ONCE: Final = 2
"""Requests a keyholder computes shares for at once: more would only slow each other down."""
SHARE_REQUESTS: Final = 64
"""Requests a keyholder has in hand, those that wait for their turn or for the disk included."""
SHARES_PER_PARTY_BURST: Final = 5_000
SHARES_PER_PARTY_PER_S: Final = 100
"""What one requester gets in the long run, from each keyholder: whoever stole a key cannot empty a store with it."""
SHARES_BURST: Final = 20_000
SHARES_PER_S: Final = 2_000
SHARE_PARTIES: Final = 10_000
"""Requesters whose use a keyholder remembers."""
CAPSULES_CHECKED: Final = 50_000
"""Capsules whose proof a keyholder has checked and need not check again."""
VAULT_CHUNK_BYTES: Final = 512 * 1024
"""So much of a stored object is in memory at a time for one reader or writer."""
VAULT_WRITES_AT_ONCE: Final = 8
VAULT_READS_AT_ONCE: Final = 64
VAULT_STORES: Final = 16
"""Places one organisation writes copies to."""
TOKENS_PER_RECORD: Final = 8_192
TOKENS_PER_SEARCH: Final = 32
SEARCH_RECORDS: Final = 500
"""Records in one page of an answer to a search."""
SEARCH_SCAN_RECORDS: Final = 5_000
"""Records with all the tokens that one search looks at, inside the ticket's scope or not."""
SEARCH_BODY_BYTES: Final = 4 * 1024
"""More than the most tokens need."""
DHT_PIECE_BYTES: Final = 6 * 1024
"""Part of the format: a datagram's request holds 8 KiB, a record around its piece included."""
DHT_ROOT_HASHES: Final = 180
DHT_OBJECT_BYTES: Final = 64 * 1024 * 1024
DHT_COPIES: Final = 20
DHT_RECORDS_PER_KEY: Final = 4
"""Records of one key, by as many signers, that a node gives out or keeps."""
DHT_CALLS_AT_ONCE: Final = 256
"""Datagrams being answered; what comes beyond is dropped, as the network may drop any."""
DHT_PIECES_AT_ONCE: Final = 8
NODE_CACHE_BYTES: Final = 24 * 1024 * 1024
LOWER_CACHE_BYTES: Final = 8 * 1024 * 1024
"""For lower branches and leaves: enough for what the patients of a day are looked at again and again."""
VALUE_CACHE_BYTES: Final = 12 * 1024 * 1024
ABCI_FRAME_BYTES: Final = 64 * 1024 * 1024
"""More than the largest block, or snapshot chunk, with everything around it."""
SNAPSHOT_CHUNK_BYTES: Final = 2 * 1024 * 1024
"""Part of the snapshot's format: every node must cut its state into the same pieces."""
SNAPSHOT_CHUNKS: Final = 100_000
"""The engine advertises no snapshot with more."""
SNAPSHOT_METADATA_BYTES: Final = 4_000_000
"""The engine's messages about a snapshot hold no more."""
SNAPSHOTS_KEPT: Final = 16
SNAPSHOT_SLICE_ENTRIES: Final = 1_000
"""How many entries are read for a snapshot between other work: a few milliseconds."""
MEMPOOL_TXS: Final = 5_000
MEMPOOL_BYTES: Final = 64 * 1024 * 1024
ARCHIVE_CHUNK_BYTES: Final = 64 * 1024
ARCHIVE_ENTRY_BYTES: Final = 16 * 1024
"""The description of a backup, or the name and size of one of its files."""
ARCHIVE_PATH_CHARS: Final = 1024
BACKUP_FILES: Final = 100_000
RELAYS_AT_ONCE: Final = 64
RELAYS_PER_GATEKEEPER: Final = 8
"""A gatekeeper that hangs may keep so many of the hub's places, and the others stay within reach."""
RELAY_CONNECT_S: Final = 5
RELAY_SILENCE_S: Final = 30
"""How long a gatekeeper may send nothing."""
RELAY_S: Final = 300
"""How long a relayed answer may take in all, from the first byte asked to the last byte taken."""
WALLET_RELATIONS: Final = 512
WALLET_GENERATIONS: Final = 64
"""How many keys of one pseudonym a wallet tries, to find the one that the ledger has."""
RECOVERY_CARDS: Final = 16
"""As many as one set of SLIP-39 shares may have."""
CARD_CHARS: Final = 1024
"""More than a card has; its format says how many words."""
WALLET_RECOVERY_GAP: Final = 4
"""How many unused counters in a row end the search at one organisation."""
KEY_LABEL_CHARS: Final = 80
EXISTING_ID_CHARS: Final = 256
SCRYPT_MIN_N: Final = 1 << 10
SCRYPT_MAX_N: Final = 1 << 18
SCRYPT_MAX_R: Final = 8
SCRYPT_MAX_P: Final = 4
FULL_URL_CHARS: Final = 1024
LIGHT_VALIDATORS: Final = MEMBERS
LIGHT_BLOCK_BYTES: Final = 256 * 1024
"""A header with the votes of as many validators takes less."""
LIGHT_JSON_BYTES: Final = 1024 * 1024
"""The same as the engine's own answers write it."""
LIGHT_BLOCKS: Final = 4096
"""How many blocks a light client fetches at most on its way to one height."""
LIGHT_FETCHES: Final = 16
"""How many light blocks a node asks its engine for at once."""
LIGHT_CACHE_BYTES: Final = 4 * 1024 * 1024
"""Light blocks that a node keeps at hand."""
LIGHT_KNOWN: Final = 64
"""Believed headers that a light client keeps at hand."""
LIGHT_FRESH_S: Final = 2 * STALE_BLOCK_S
"""The age at which the newest block shown is one that stands still, or behind which others are withheld."""
LIGHT_SETTLE_S: Final = 4 * HEARTBEAT_S
"""How long a light client waits for the block above: a network without work makes one every beat."""
TRUSTING_PERIOD_S: Final = 14 * DAY_S
"""How long after a block its validators are believed to be unable to agree on another one."""
HL7_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""A message with a report inside; nothing larger is read."""
HL7_SEGMENTS: Final = 10_000
HL7_CONNECTIONS: Final = 64
HL7_FRAME_S: Final = 60
"""How long a message may take to arrive, from its first byte on."""
HL7_IDLE_S: Final = 24 * 3600
"""How long a connection may say nothing: senders keep them open."""
HL7_WAITING: Final = 10_000
"""Messages that wait to be filed; what comes beyond is refused for now."""
HL7_REMEMBERED: Final = 200_000
"""Filed messages whose fingerprint is kept, so that what is sent again is not filed again."""
IMPORT_FILE_BYTES: Final = 32 * 1024 * 1024 * 1024
"""What an import reads of a file, unpacked."""
IMPORT_PIECE_BYTES: Final = 1024 * 1024
"""One element of an export, or one line of a table."""
IMPORT_JSON_BYTES: Final = 64 * 1024 * 1024
"""A file that has to be read as a whole."""
IMPORT_CHUNK: Final = 2_000
"""Resources in one transaction of an import."""
IMPORT_DAYS: Final = 200_000
"""Sums of a day, kind of value and device that an import holds at once."""
IMPORT_PLACES: Final = 5
"""Places that a report names for each reason why something was skipped."""
SEARCH_PARAMETERS: Final = 64
"""Parameters of one FHIR search."""
SEARCH_VALUES: Final = 512
"""Alternatives of one parameter: as many ids as a client asks for at once."""
SEARCH_CHAIN_DEPTH: Final = 4
"""References followed one behind the other."""
SEARCH_CHAIN_TYPES: Final = 12
"""Types that a chain may lead to without naming one."""
SEARCH_CHAINS: Final = 256
"""References that the chains of one search follow, each type that one may lead to counted: every one is a question."""
SEARCH_SORT_KEYS: Final = 4
SEARCH_INCLUDES: Final = 32
SEARCH_PAGE: Final = 1_000
"""Matches of one page at most, whatever ``_count`` says."""
SEARCH_INCLUDED: Final = 2_000
"""Resources that one page carries beside its matches."""
SEARCH_INCLUDE_ROUNDS: Final = 4
"""How often ``:iterate`` goes on from what it has found."""
SEARCH_RESOLVED: Final = 512
"""As many resources behind a chain are looked up first; where there are more, each candidate is asked instead."""
SEARCH_DENSE: Final = 2_048
"""Rows of one value that are counted before another way through the indexes is chosen; beyond it they are many."""
FHIR_READERS: Final = 8
"""Threads of the FHIR server that read the charts."""
FHIR_REQUESTS_AT_ONCE: Final = 256
"""Requests the FHIR server has in hand; beyond it, callers are asked to come back."""
FHIR_BUNDLES_AT_ONCE: Final = 4
"""Transactions and batches that are read and done at a time; each may be as long as the longest bundle."""
FHIR_PARAMETERS: Final = 256
"""Parameters of one FHIR request, repeated ones counted each."""
FHIR_PARAMETERS_BYTES: Final = 64 * 1024
"""All of them together, as they arrive."""
FHIR_ENTRY_URL_CHARS: Final = 8 * 1024
FHIR_PATCH_STEPS: Final = 1_000
FHIR_PAGE: Final = 1_000
"""Resources in one page of a history or of $everything."""
FHIR_PAGE_LINK_S: Final = 3_600
"""How long the link to a next page is good."""
FHIR_PAGE_LINK_CHARS: Final = 128 * 1024
FHIR_SUPPORTING: Final = 500
"""Shared resources that one page of $everything brings along."""
FHIR_EXPORTS: Final = 1_000
FHIR_EXPORTS_PER_CALLER: Final = 4
FHIR_EXPORT_S: Final = 3_600
"""How long an export can be fetched."""
FHIR_EXPORT_CHUNK: Final = 200
"""Resources of an export that are read, audited and sent at a time."""
FHIR_EXPORT_MEMBERS: Final = 10_000
"""Patients of a group."""
FHIR_DOWNLOADS: Final = 8
"""Exported files that are being sent at once; each holds a snapshot of the charts."""
FHIR_DOWNLOADS_PER_CALLER: Final = 4
FHIR_PART_S: Final = 60
"""How long a reader may take to take one part of a stream."""
FHIR_EVENTS_LOOKED_AT: Final = 200
FHIR_EVENTS_POLL_S: Final = 5
"""How long an event stream waits before it looks again: others than the server write to the charts too."""
