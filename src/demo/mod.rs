//! The built-in agent worker of `repoint up --demo`.
