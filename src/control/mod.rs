//! Control plane rules and the REST API that asks for them.
