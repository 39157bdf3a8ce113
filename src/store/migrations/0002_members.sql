-- Members: every run of every proxy that may serve something. Written before a run is welcomed, so that none is
-- forgotten by a restart; afterwards only now and then, and `last_heard` and `durable` lag behind.

CREATE TABLE members (
    proxy_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    build TEXT NOT NULL,
    zone TEXT NOT NULL,
    address TEXT NOT NULL,
    -- 1: it begins with what its disk has after a restart.
    keeps_table BIGINT NOT NULL,
    -- 1: it ends with the process that owns this store.
    embedded BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_heard BIGINT NOT NULL,
    -- Revision on its disk when it was written last.
    durable BIGINT,
    PRIMARY KEY (proxy_id, instance_id)
);
