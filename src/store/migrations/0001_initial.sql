-- Column types are those that one query text reads alike on SQLite and
-- PostgreSQL: TEXT (ids, words, JSON), BIGINT (numbers, microseconds since
-- 1970) and BYTEA. Uniqueness is declared here and refused in words there.

CREATE TABLE settings (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    base_domain TEXT NOT NULL,
    shared_hosts TEXT NOT NULL
);

-- Where the history stands. One row: its lock orders the commits, which a
-- database sequence would not.
CREATE TABLE head (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    lineage TEXT NOT NULL,
    revision BIGINT NOT NULL,
    digest TEXT NOT NULL
);

-- The routing records as they stand, encoded.
CREATE TABLE routes (
    key TEXT NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

-- The change log: encoded once, sent as stored. The digest is the one after it.
CREATE TABLE changes (
    revision BIGINT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    bytes BYTEA NOT NULL
);

CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE deployments (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    reference TEXT NOT NULL,
    source TEXT NOT NULL,
    message TEXT,
    git_commit TEXT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, reference)
);
CREATE INDEX deployments_newest ON deployments (project_id, id);

CREATE TABLE bundles (
    digest TEXT NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL,
    manifest TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE environments (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    pointer TEXT REFERENCES deployments (id),
    bounds TEXT,
    policy TEXT NOT NULL,
    locked TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);
CREATE INDEX environments_pointing ON environments (pointer);

-- Position 0 is the host made from the environment's names.
CREATE TABLE hosts (
    host TEXT NOT NULL PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id),
    position BIGINT NOT NULL
);
CREATE INDEX hosts_of_environment ON hosts (environment_id, position);

CREATE TABLE pools (
    environment_id TEXT NOT NULL REFERENCES environments (id),
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    state TEXT NOT NULL,
    bounds TEXT NOT NULL,
    closing_revision BIGINT,
    closing_since BIGINT,
    endpoints TEXT NOT NULL,
    PRIMARY KEY (environment_id, deployment_id)
);
CREATE INDEX pools_of_deployment ON pools (deployment_id);

CREATE TABLE pool_errors (
    environment_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    output TEXT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (environment_id, deployment_id, number),
    FOREIGN KEY (environment_id, deployment_id) REFERENCES pools (environment_id, deployment_id)
);

-- Append-only. `below` is the row beneath on the history stack.
CREATE TABLE promotions (
    id TEXT NOT NULL PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id),
    sequence BIGINT NOT NULL,
    below BIGINT,
    kind TEXT NOT NULL,
    from_deployment_id TEXT,
    to_deployment_id TEXT NOT NULL,
    source_environment_id TEXT,
    actor TEXT NOT NULL,
    reason TEXT,
    revision BIGINT NOT NULL,
    requested_at BIGINT NOT NULL,
    committed_at BIGINT NOT NULL,
    applied_at BIGINT,
    UNIQUE (environment_id, sequence)
);

CREATE TABLE moves (
    number BIGINT NOT NULL PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id),
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    kind TEXT NOT NULL,
    source_environment_id TEXT,
    actor TEXT NOT NULL,
    reason TEXT,
    -- 0 or 1: a BOOLEAN is not read alike on both.
    scale_previous_to_zero BIGINT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT,
    requested_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    promotion_id TEXT
);
CREATE INDEX moves_by_state ON moves (state, number);
CREATE INDEX moves_of_environment ON moves (environment_id, state);

-- Numbers that are never given twice, also after what bore them is deleted.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
