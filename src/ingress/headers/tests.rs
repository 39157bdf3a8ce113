//! Header hygiene, by table.
