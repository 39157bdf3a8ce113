//! Ask, then insist: how things are stopped.
