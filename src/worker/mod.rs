//! The replica supervisor.
