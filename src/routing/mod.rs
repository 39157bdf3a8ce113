//! What a request resolves to: host or header, environment, pool.
